/* --lines. */
#include "agent/python.h"
int lines_install(void) { return 0; }
void lines_uninstall(void) {}
void lines_enter(struct thread *th, struct call *c, char *tstate) { (void)th; (void)c; (void)tstate; }
void lines_exit(struct thread *th, const struct call *c) { (void)th; (void)c; }
void lines_code(const void *pycode) { (void)pycode; }
void line_record(struct thread *th, struct code *code, uint32_t line, unsigned depth) { (void)th; (void)code; (void)line; (void)depth; }
bool line_first(uint32_t code_id, uint32_t line) { (void)code_id; (void)line; return false; }
