/*
 * What answers look like: the objects' own tables, and the members that calls add to them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"

#define INTEGER(name, help) \
    "\"" name "\": {\"type\": \"integer\", \"minimum\": 0, \"description\": \"" help "\"}"
#define TEXT(name, help)        "\"" name "\": {\"type\": \"string\", \"description\": \"" help "\"}"
#define REFERENCE(name, schema) "\"" name "\": {\"$ref\": \"#/components/schemas/" schema "\"}"

const struct rest_schema rest_schemas[] = {
    {"Pool", "A folder of images.", &pool_type,
     "{" TEXT("state", "available or away") "," INTEGER("volumes", "how many it has") "," INTEGER(
         "provisioned", "bytes of its volumes' sizes") "," INTEGER("free",
                                                                   "bytes that are left") "}"},
    {"Class", "A policy that volumes are made by.", &class_type, NULL},
    {"Volume", "A disk.", &volume_type,
     "{" INTEGER("snapshots", "how many it has") "," REFERENCE("attachment", "Attachment") "}"},
    {"Snapshot", "A state of a volume.", &snapshot_type, NULL},
    {"Attachment", "A volume in use on this host.", &attachment_type, NULL},
    {"Job", "An operation that is under way, or a merge that has ended.", NULL,
     "{" TEXT("id", "UUID") "," TEXT("operation", "what it does") "," TEXT("object", "id of what "
                                                                                     "it works on") "," TEXT(
         "state",
         "running, concluded, failed or "
         "cancelled") "," TEXT("error",
                               "why it failed") "," INTEGER("done",
                                                            "bytes") "," INTEGER("total",
                                                                                 "bytes") "," INTEGER("created",
                                                                                                      "seconds since 1970") "," INTEGER("ended",
                                                                                                                                        "seconds since 1970") "}"},
    {"Health", "That hawserd answers, and its catalog.", NULL,
     "{" TEXT("status", "ok") "," TEXT(
         "version", "of the program") ","
                                      "\"objects\": {\"type\": \"object\", \"description\": \"how "
                                      "many of each kind\"}}"},
    {"Metrics", "Prometheus' text format, version 0.0.4.", NULL, NULL},
    {"OpenAPI", "This document.", NULL, NULL},
    {NULL},
};
