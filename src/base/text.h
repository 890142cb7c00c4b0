/* Cells of a table: text cut and padded by columns, not by bytes. All strings
 * are NUL terminated UTF-8; what is cut is marked by TEXT_CUT. */
#ifndef MP_TEXT_H
#define MP_TEXT_H

#include <stddef.h>

#define TEXT_CUT ".."

enum text_keep {
    TEXT_KEEP_ENDS, /* cut in the middle: names, where both ends tell */
    TEXT_KEEP_TAIL  /* cut in front: paths, where the end tells */
};

/* Copies s into buf so that it takes at most cols columns (0: as many as it
 * likes) and fits into size bytes. Returns buf. */
char *text_fit(char *buf, size_t size, const char *s, unsigned cols, enum text_keep keep);

/* Appends s to buf and pads it with spaces to cols columns. A longer s stays
 * whole and is followed by nothing. Cut, at a character, only when buf is full. */
void text_append(char *buf, size_t size, const char *s, unsigned cols);

/* As above with the spaces in front of s. */
void text_append_right(char *buf, size_t size, const char *s, unsigned cols);

/* n with commas between thousands: "1,234,567". buf of at least 28 bytes. Returns buf. */
char *text_thousands(char *buf, size_t size, unsigned long long n);

#endif
