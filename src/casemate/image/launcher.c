/*
 * casemate-python: the Python interpreter as a position-independent program.
 *
 * Debian's python3.11 is linked to a fixed address, so its code and heap lie where an attacker
 * expects them. This one only calls the interpreter in libpython, which is a shared library:
 * the kernel's address space randomisation then holds for program, heap, stack and libraries.
 */
extern int Py_BytesMain(int argc, char **argv);

int main(int argc, char **argv)
{
	return Py_BytesMain(argc, argv);
}
