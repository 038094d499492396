/*
 * The table of commands. Everything about a command that is not its own work stands here once:
 * which bits of its CDB have a meaning, where its data goes, what a reservation or a port that is
 * not active does to it. Dispatch, the checks, and REPORT SUPPORTED OPERATION CODES read it.
 *
 * The usage masks are those that REPORT SUPPORTED OPERATION CODES returns (SPC-4, 6.35.3): a bit
 * is set where the device evaluates, or knowingly ignores, the field. For commands with a service
 * action the low bits of byte 1 are filled in by the reader.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define ANY      0xff
#define FOUR     ANY, ANY, ANY, ANY
#define EIGHT    FOUR, FOUR
#define MEDIUM   COMMAND_MEDIUM
#define WRITES   (COMMAND_MEDIUM | COMMAND_WRITES)
#define DPO_FUA  0x18
#define DPO      0x10
#define BYTCHK   0x06
#define GROUP    0x3f

#define NO_SA    -1
#define NO_FLAGS 0

/* The columns: name, opcode, service action, length, usage, direction, reserve, access, flags,
   handler, timeout. */
/* clang-format off */
const struct command commands[] = {
    {"TEST UNIT READY", OP_TEST_UNIT_READY, NO_SA, 6, {0x00}, DATA_NONE, RESERVE_ALLOWED,
     ACCESS_ACTIVE, MEDIUM, co_test_unit_ready},
    {"REQUEST SENSE", OP_REQUEST_SENSE, NO_SA, 6, {0x03, 0x01, 0, 0, ANY}, DATA_IN,
     RESERVE_ALLOWED, ACCESS_ALWAYS, COMMAND_NO_LUN | COMMAND_SPC2_EXEMPT, co_request_sense},
    {"FORMAT UNIT", OP_FORMAT_UNIT, NO_SA, 6, {0x04, 0xff}, DATA_OUT, RESERVE_WRITE,
     ACCESS_ACTIVE, WRITES, co_format_unit, 3600},
    {"READ (6)", OP_READ_6, NO_SA, 6, {0x08, 0x1f, ANY, ANY, ANY}, DATA_IN, RESERVE_READ,
     ACCESS_ACTIVE, MEDIUM, co_read},
    {"WRITE (6)", OP_WRITE_6, NO_SA, 6, {0x0a, 0x1f, ANY, ANY, ANY}, DATA_OUT, RESERVE_WRITE,
     ACCESS_ACTIVE, WRITES, co_write},
    {"INQUIRY", OP_INQUIRY, NO_SA, 6, {0x12, 0x01, ANY, ANY, ANY}, DATA_IN, RESERVE_ALLOWED,
     ACCESS_ALWAYS, COMMAND_NO_LUN | COMMAND_SPC2_EXEMPT, co_inquiry},
    {"MODE SELECT (6)", OP_MODE_SELECT_6, NO_SA, 6, {0x15, 0x11, 0, 0, ANY}, DATA_OUT,
     RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_mode_select},
    {"RESERVE (6)", OP_RESERVE_6, NO_SA, 6, {0x16, 0, 0, 0, 0}, DATA_NONE, RESERVE_IN_BODY,
     ACCESS_ACTIVE, NO_FLAGS, co_reserve},
    {"RELEASE (6)", OP_RELEASE_6, NO_SA, 6, {0x17, 0, 0, 0, 0}, DATA_NONE, RESERVE_IN_BODY,
     ACCESS_ACTIVE, COMMAND_SPC2_EXEMPT, co_release},
    {"MODE SENSE (6)", OP_MODE_SENSE_6, NO_SA, 6, {0x1a, 0x08, ANY, ANY, ANY}, DATA_IN,
     RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_mode_sense},
    {"START STOP UNIT", OP_START_STOP_UNIT, NO_SA, 6, {0x1b, 0x01, 0, 0, 0x05}, DATA_NONE,
     RESERVE_IN_BODY, ACCESS_ACTIVE, NO_FLAGS, co_start_stop_unit},
    {"SEND DIAGNOSTIC", OP_SEND_DIAGNOSTIC, NO_SA, 6, {0x1d, 0xf7, 0, ANY, ANY}, DATA_OUT,
     RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_send_diagnostic},
    {"PREVENT ALLOW MEDIUM REMOVAL", OP_PREVENT_ALLOW_MEDIUM_REMOVAL, NO_SA, 6, {0x1e, 0, 0, 0,
     0x03}, DATA_NONE, RESERVE_IN_BODY, ACCESS_ACTIVE, NO_FLAGS, co_prevent_allow},
    {"READ CAPACITY (10)", OP_READ_CAPACITY_10, NO_SA, 10, {0x25}, DATA_IN, RESERVE_ALLOWED,
     ACCESS_ACTIVE, MEDIUM, co_read_capacity_10},
    {"READ (10)", OP_READ_10, NO_SA, 10, {0x28, DPO_FUA, FOUR, GROUP, ANY, ANY}, DATA_IN,
     RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_read},
    {"WRITE (10)", OP_WRITE_10, NO_SA, 10, {0x2a, DPO_FUA, FOUR, GROUP, ANY, ANY}, DATA_OUT,
     RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write},
    {"WRITE AND VERIFY (10)", OP_WRITE_AND_VERIFY_10, NO_SA, 10, {0x2e, DPO | BYTCHK, FOUR,
     GROUP, ANY, ANY}, DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write_and_verify},
    {"VERIFY (10)", OP_VERIFY_10, NO_SA, 10, {0x2f, DPO | BYTCHK, FOUR, GROUP, ANY, ANY},
     DATA_OUT, RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_verify},
    {"PRE-FETCH (10)", OP_PRE_FETCH_10, NO_SA, 10, {0x34, 0x02, FOUR, GROUP, ANY, ANY},
     DATA_NONE, RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_pre_fetch},
    {"SYNCHRONIZE CACHE (10)", OP_SYNCHRONIZE_CACHE_10, NO_SA, 10, {0x35, 0x06, FOUR, GROUP,
     ANY, ANY}, DATA_NONE, RESERVE_WRITE, ACCESS_ACTIVE, MEDIUM, co_synchronize_cache, 120},
    {"WRITE SAME (10)", OP_WRITE_SAME_10, NO_SA, 10, {0x41, 0x08, FOUR, GROUP, ANY, ANY},
     DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write_same, 120},
    {"UNMAP", OP_UNMAP, NO_SA, 10, {0x42, 0, 0, 0, 0, 0, GROUP, ANY, ANY}, DATA_OUT,
     RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_unmap, 120},
    {"LOG SENSE", OP_LOG_SENSE, NO_SA, 10, {0x4d, 0, ANY, ANY, 0, 0, 0, ANY, ANY}, DATA_IN,
     RESERVE_ALLOWED, ACCESS_STANDBY, NO_FLAGS, co_log_sense},
    {"MODE SELECT (10)", OP_MODE_SELECT_10, NO_SA, 10, {0x55, 0x11, 0, 0, 0, 0, 0, ANY, ANY},
     DATA_OUT, RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_mode_select},
    {"RESERVE (10)", OP_RESERVE_10, NO_SA, 10, {0x56}, DATA_NONE, RESERVE_IN_BODY,
     ACCESS_ACTIVE, NO_FLAGS, co_reserve},
    {"RELEASE (10)", OP_RELEASE_10, NO_SA, 10, {0x57}, DATA_NONE, RESERVE_IN_BODY,
     ACCESS_ACTIVE, COMMAND_SPC2_EXEMPT, co_release},
    {"MODE SENSE (10)", OP_MODE_SENSE_10, NO_SA, 10, {0x5a, 0x18, ANY, ANY, 0, 0, 0, ANY, ANY},
     DATA_IN, RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_mode_sense},
#define PR_IN(title, action) \
    {"PERSISTENT RESERVE IN, " title, OP_PERSISTENT_RESERVE_IN, action, 10, {0x5e, 0, 0, \
     0, 0, 0, 0, ANY, ANY}, DATA_IN, RESERVE_ALLOWED, ACCESS_STANDBY, NO_FLAGS, co_pr_in}
    PR_IN("READ KEYS", SA_PR_READ_KEYS),
    PR_IN("READ RESERVATION", SA_PR_READ_RESERVATION),
    PR_IN("REPORT CAPABILITIES", SA_PR_REPORT_CAPABILITIES),
    PR_IN("READ FULL STATUS", SA_PR_READ_FULL_STATUS),
#define PR_OUT(title, action) \
    {"PERSISTENT RESERVE OUT, " title, OP_PERSISTENT_RESERVE_OUT, action, 10, {0x5f, 0, \
     ANY, 0, 0, FOUR}, DATA_OUT, RESERVE_IN_BODY, ACCESS_STANDBY, COMMAND_UNCOUNTED, \
     co_pr_out, 60}
    PR_OUT("REGISTER", SA_PR_REGISTER),
    PR_OUT("RESERVE", SA_PR_RESERVE),
    PR_OUT("RELEASE", SA_PR_RELEASE),
    PR_OUT("CLEAR", SA_PR_CLEAR),
    PR_OUT("PREEMPT", SA_PR_PREEMPT),
    PR_OUT("PREEMPT AND ABORT", SA_PR_PREEMPT_AND_ABORT),
    PR_OUT("REGISTER AND IGNORE EXISTING KEY", SA_PR_REGISTER_AND_IGNORE),
    PR_OUT("REGISTER AND MOVE", SA_PR_REGISTER_AND_MOVE),
    {"EXTENDED COPY(LID1)", OP_EXTENDED_COPY, SA_EXTENDED_COPY_LID1, 16, {0x83, 0, 0, 0, 0, 0,
     0, 0, 0, 0, FOUR}, DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, NO_FLAGS, co_extended_copy,
     120},
#define COPY_RESULTS_IN(title, action) \
    {title, OP_RECEIVE_COPY_RESULTS, action, 16, {0x84, 0, ANY, 0, 0, 0, 0, 0, 0, 0, \
     FOUR}, DATA_IN, RESERVE_WRITE, ACCESS_ACTIVE, NO_FLAGS, co_receive_copy_results}
    COPY_RESULTS_IN("RECEIVE COPY STATUS(LID1)", SA_COPY_STATUS_LID1),
    COPY_RESULTS_IN("RECEIVE COPY OPERATING PARAMETERS", SA_COPY_OPERATING_PARAMETERS),
    COPY_RESULTS_IN("RECEIVE COPY FAILURE DETAILS(LID1)", SA_COPY_FAILED_SEGMENT_DETAILS_LID1),
    {"READ (16)", OP_READ_16, NO_SA, 16, {0x88, DPO_FUA, EIGHT, FOUR, GROUP}, DATA_IN,
     RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_read},
    {"COMPARE AND WRITE", OP_COMPARE_AND_WRITE, NO_SA, 16, {0x89, DPO_FUA, EIGHT, 0, 0, 0, ANY,
     GROUP}, DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_compare_and_write},
    {"WRITE (16)", OP_WRITE_16, NO_SA, 16, {0x8a, DPO_FUA, EIGHT, FOUR, GROUP}, DATA_OUT,
     RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write},
    {"ORWRITE (16)", OP_ORWRITE_16, NO_SA, 16, {0x8b, DPO_FUA, EIGHT, FOUR, GROUP}, DATA_OUT,
     RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_orwrite},
    {"WRITE AND VERIFY (16)", OP_WRITE_AND_VERIFY_16, NO_SA, 16, {0x8e, DPO | BYTCHK, EIGHT,
     FOUR, GROUP}, DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write_and_verify},
    {"VERIFY (16)", OP_VERIFY_16, NO_SA, 16, {0x8f, DPO | BYTCHK, EIGHT, FOUR, GROUP},
     DATA_OUT, RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_verify},
    {"PRE-FETCH (16)", OP_PRE_FETCH_16, NO_SA, 16, {0x90, 0x02, EIGHT, FOUR, GROUP}, DATA_NONE,
     RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_pre_fetch},
    {"SYNCHRONIZE CACHE (16)", OP_SYNCHRONIZE_CACHE_16, NO_SA, 16, {0x91, 0x06, EIGHT, FOUR,
     GROUP}, DATA_NONE, RESERVE_WRITE, ACCESS_ACTIVE, MEDIUM, co_synchronize_cache, 120},
    {"WRITE SAME (16)", OP_WRITE_SAME_16, NO_SA, 16, {0x93, 0x09, EIGHT, FOUR, GROUP},
     DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write_same, 120},
    {"READ CAPACITY (16)", OP_SERVICE_ACTION_IN_16, SA_READ_CAPACITY_16, 16, {0x9e, 0, 0, 0, 0,
     0, 0, 0, 0, 0, FOUR}, DATA_IN, RESERVE_ALLOWED, ACCESS_ACTIVE, MEDIUM,
     co_read_capacity_16},
    {"GET LBA STATUS", OP_SERVICE_ACTION_IN_16, SA_GET_LBA_STATUS, 16, {0x9e, 0, EIGHT, FOUR},
     DATA_IN, RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_get_lba_status},
    {"REPORT LUNS", OP_REPORT_LUNS, NO_SA, 12, {0xa0, 0, ANY, 0, 0, 0, FOUR}, DATA_IN,
     RESERVE_ALLOWED, ACCESS_ALWAYS, COMMAND_NO_LUN | COMMAND_SPC2_EXEMPT, co_report_luns},
    {"REPORT TARGET PORT GROUPS", OP_MAINTENANCE_IN, SA_REPORT_TARGET_PORT_GROUPS, 12, {0xa3,
     0xe0, 0, 0, 0, 0, FOUR}, DATA_IN, RESERVE_ALLOWED, ACCESS_ALWAYS, NO_FLAGS,
     co_report_port_groups},
    {"REPORT SUPPORTED OPERATION CODES", OP_MAINTENANCE_IN,
     SA_REPORT_SUPPORTED_OPERATION_CODES, 12, {0xa3, 0, 0x87, ANY, ANY, ANY, FOUR}, DATA_IN,
     RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_report_operation_codes},
    {"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", OP_MAINTENANCE_IN,
     SA_REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS, 12, {0xa3, 0, 0x80, 0, 0, 0, FOUR},
     DATA_IN, RESERVE_WRITE, ACCESS_STANDBY, NO_FLAGS, co_report_task_management},
    {"SET TARGET PORT GROUPS", OP_MAINTENANCE_OUT, SA_SET_TARGET_PORT_GROUPS, 12, {0xa4, 0, 0,
     0, 0, 0, FOUR}, DATA_OUT, RESERVE_WRITE, ACCESS_UNAVAILABLE, COMMAND_EXPLICIT_ACCESS,
     co_set_port_groups},
    {"READ (12)", OP_READ_12, NO_SA, 12, {0xa8, DPO_FUA, FOUR, FOUR, GROUP}, DATA_IN,
     RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_read},
    {"WRITE (12)", OP_WRITE_12, NO_SA, 12, {0xaa, DPO_FUA, FOUR, FOUR, GROUP}, DATA_OUT,
     RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write},
    {"WRITE AND VERIFY (12)", OP_WRITE_AND_VERIFY_12, NO_SA, 12, {0xae, DPO | BYTCHK, FOUR,
     FOUR, GROUP}, DATA_OUT, RESERVE_WRITE, ACCESS_ACTIVE, WRITES, co_write_and_verify},
    {"VERIFY (12)", OP_VERIFY_12, NO_SA, 12, {0xaf, DPO | BYTCHK, FOUR, FOUR, GROUP}, DATA_OUT,
     RESERVE_READ, ACCESS_ACTIVE, MEDIUM, co_verify},
};
/* clang-format on */

const unsigned command_count = ARRAY_LEN(commands);

/* Where the commands of an operation code begin, plus one; they stand side by side. */
static uint8_t first_of[256];

static void fill_index(void)
{
    static_assert(ARRAY_LEN(commands) < 255, "fits the index");
    for (unsigned i = ARRAY_LEN(commands); i-- > 0;)
        first_of[commands[i].opcode] = (uint8_t)(i + 1);
}

const struct command *command_find(uint8_t opcode, uint8_t service_action, bool *ret_opcode_known)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_index);
    unsigned i = first_of[opcode];
    *ret_opcode_known = i > 0;
    if (i-- == 0)
        return NULL;
    for (; i < ARRAY_LEN(commands) && commands[i].opcode == opcode; i++)
        if (commands[i].service_action < 0 || commands[i].service_action == service_action)
            return &commands[i];
    return NULL;
}

bool command_has_service_actions(uint8_t opcode)
{
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if (commands[i].opcode == opcode)
            return commands[i].service_action >= 0;
    return false;
}

bool command_supported(const struct scsi_disk *disk, const struct command *command)
{
    return !(command->flags & COMMAND_EXPLICIT_ACCESS) || disk->explicit_access;
}
