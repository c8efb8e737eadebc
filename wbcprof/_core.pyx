# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The only extension: checked arrays in, one nogil call of a C kernel, error code to exception."""

cdef extern from "wbcprof.h" nogil:
    int WBC_OK
    int WBC_OUT_OF_MEMORY

    ctypedef struct wbc_kernels:
        const char *name

    const wbc_kernels *wbc_active()
    const char *wbc_level_name(int index)
    int wbc_cap(const char *name)


def instruction_set():
    """Name of the instruction set in use."""
    return wbc_active().name.decode()


def instruction_sets():
    """Names of the instruction sets that this machine can run, slowest first."""
    names = []
    while wbc_level_name(<int>len(names)) != NULL:
        names.append(wbc_level_name(<int>len(names)).decode())
    return names


def cap_instruction_set(str name):
    """Run the kernels of the instruction set `name` from now on."""
    cdef bytes encoded = name.encode()
    if wbc_cap(encoded) != 0:
        raise ValueError(f"instruction set must be one of {instruction_sets()}, got {name!r}")
