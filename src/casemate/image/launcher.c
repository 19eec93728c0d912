/*
 * casemate-python: the Python interpreter as a position-independent program.
 *
 * Debian's python3.11 is linked to a fixed address, so its code and heap lie where an attacker
 * expects them. This one only calls the interpreter in libpython, which is a shared library:
 * the kernel's address space randomisation then holds for program, heap, stack and libraries.
 *
 * Mounts without execution stop programs, but not scripts, which an interpreter only reads. So
 * this one runs no script from such a mount, none from standard input, and takes no paths from
 * the environment: what it runs came in a verified payload, or stands on the command line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

extern int Py_BytesMain(int argc, char **argv);
extern char **environ;

static const int REFUSED = 126;

/* Returns the place of the script among the arguments, 0 when there is none (-c, -m). */
static int script_at(int argc, char **argv)
{
	for (int at = 1; at < argc; at++) {
		const char *word = argv[at];

		if (word[0] != '-' || word[1] == '\0')
			return at;
		if (word[1] == '-')
			continue;
		for (const char *letter = word + 1; *letter; letter++) {
			if (*letter == 'c' || *letter == 'm' || *letter == 'V' || *letter == 'h')
				return 0;
			if (*letter == 'W' || *letter == 'X') {
				at += letter[1] == '\0';
				break;
			}
		}
	}
	return argc;
}

/* Replaces the script by a descriptor of it, so that what was checked is what is run. */
static int pin_script(char **argv, int at)
{
	static char pinned[32];
	struct statvfs mount;
	int file = open(argv[at], O_RDONLY | O_NOCTTY);

	if (file < 0 || fstatvfs(file, &mount) != 0) {
		fprintf(stderr, "casemate-python: %s: %s\n", argv[at], strerror(errno));
		return -1;
	}
	if (mount.f_flag & ST_NOEXEC) {
		fprintf(stderr, "casemate-python: %s is not part of the image\n", argv[at]);
		return -1;
	}
	snprintf(pinned, sizeof pinned, "/proc/self/fd/%d", file);
	argv[at] = pinned;
	return 0;
}

static void forget_paths(void)
{
	for (char **entry = environ; *entry;) {
		const char *end = strchr(*entry, '=');
		char name[64];

		if (strncmp(*entry, "PYTHON", 6) == 0 && end && end - *entry < (long)sizeof name) {
			memcpy(name, *entry, end - *entry);
			name[end - *entry] = '\0';
			unsetenv(name);
		} else {
			entry++;
		}
	}
	setenv("PYTHONSAFEPATH", "1", 1);
}

int main(int argc, char **argv)
{
	int at = script_at(argc, argv);

	forget_paths();
	if (at == argc || (at && strcmp(argv[at], "-") == 0)) {
		fputs("casemate-python: no program\n", stderr);
		return REFUSED;
	}
	if (at && pin_script(argv, at) != 0)
		return REFUSED;
	return Py_BytesMain(argc, argv);
}
