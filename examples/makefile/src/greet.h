#ifndef GREET_H
#define GREET_H

/* Writes a greeting for name, or for the world when name is NULL, to standard output. Returns 0, or -1 on an error. */
int greet(const char *name);

#endif
