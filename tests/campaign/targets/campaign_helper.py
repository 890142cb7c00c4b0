"""The libraries of helper.c and small.c."""
import ctypes
import os


def helper_path(name):
    return os.path.join(os.environ["CAMPAIGN_HELPERS"], name)


def helper_lib():
    lib = ctypes.CDLL(helper_path("helper.so"))
    lib.helper_hold_vectors.argtypes = [ctypes.c_uint64, ctypes.c_uint]
    lib.helper_compute.argtypes, lib.helper_compute.restype = [ctypes.c_uint64], ctypes.c_uint64
    lib.helper_largest_gap.argtypes, lib.helper_largest_gap.restype = [ctypes.c_uint64], ctypes.c_uint64
    lib.helper_malloc_storm.argtypes, lib.helper_malloc_storm.restype = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint], ctypes.c_uint
    lib.helper_dlopen_storm.argtypes = [ctypes.c_char_p, ctypes.c_int]
    return lib
