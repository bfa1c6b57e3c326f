#include "greet.h"

#include <stdio.h>

int greet(const char *name)
{
	return printf("Grüße, %s!\n", name ? name : "world") < 0 ? -1 : 0;
}
