#!/usr/bin/python3
"""tests/fuzz/module_seed.py: makes the first inputs of fuzz_elf (module_seed.c as a shared
object) and fuzz_module (the same as it lies in a target's memory: segments placed,
relocated, with a dynamic linker's list behind)."""
import os
import struct
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = 0x6D7000000000  # FUZZ_BASE
R_DEBUG, LINK_MAP = 0x800, 0x900
FLAGS = ["-Os", "-fPIC", "-ftls-model=initial-exec", "-shared", "-nostdlib", "-fcf-protection=none", "-fno-builtin",
         "-fno-asynchronous-unwind-tables", "-Wl,-z,noseparate-code,-z,norelro,--build-id=none",
         "-Wl,--hash-style=gnu,-soname,libc.so.6"]
VERSIONS = 0x030b0700, 0x03060f00  # Py_Version
PT_LOAD, PT_DYNAMIC, PT_TLS = 1, 2, 7
DT_RELA, DT_RELASZ = 7, 8
R_TPOFF64, R_RELATIVE = 18, 8


def build():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "libseed.so")
        subprocess.run(["gcc"] + FLAGS + ["-o", path, os.path.join(HERE, "module_seed.c")], check=True)
        subprocess.run(["strip", "--strip-unneeded", "-R", ".comment", path], check=True)
        with open(path, "rb") as file:
            return file.read()


def segments(image):
    offset, count = struct.unpack_from("<Q", image, 32)[0], struct.unpack_from("<H", image, 56)[0]
    return [struct.unpack_from("<IIQQQQQQ", image, offset + 56 * i) for i in range(count)]


def relocate(memory, dynamic, size, tls_size):
    tags = dict(struct.unpack_from("<qQ", memory, dynamic + 16 * i) for i in range(size // 16))
    for at in range(tags.get(DT_RELA, 0), tags.get(DT_RELA, 0) + tags.get(DT_RELASZ, 0), 24):
        where, info, addend = struct.unpack_from("<QQq", memory, at)
        if info & 0xFFFFFFFF == R_TPOFF64:
            struct.pack_into("<q", memory, where, addend - tls_size)
        elif info & 0xFFFFFFFF == R_RELATIVE:
            struct.pack_into("<Q", memory, where, BASE + addend)


def place(image):
    """The memory, with struct r_debug and one link map where the first segment has room."""
    parts = segments(image)
    memory = bytearray(max(p[3] + p[6] for p in parts if p[0] == PT_LOAD))
    for kind, _, offset, address, _, size, _, _ in parts:
        if kind == PT_LOAD:
            memory[address:address + size] = image[offset:offset + size]
    dynamic, dynamic_size = next((p[3], p[6]) for p in parts if p[0] == PT_DYNAMIC)
    tls_size = next(p[6] for p in parts if p[0] == PT_TLS)
    relocate(memory, dynamic, dynamic_size, tls_size)
    struct.pack_into("<QQ", memory, R_DEBUG, 1, BASE + LINK_MAP)
    # l_addr, l_name, l_ld, l_next, and where module_seed.c says the TLS offset is kept
    struct.pack_into("<QQQQQ", memory, LINK_MAP, BASE, 0, BASE + dynamic, 0, tls_size)
    return bytes(memory)


def write(name, data):
    path = os.path.join(HERE, "corpus", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def main():
    image = build()
    write("elf/shared-object", image)
    memory = place(image)
    write("module/libc", bytes([4 | 8]) + memory)
    write("module/python36", bytes([4 | 8]) + memory.replace(b"3.11.7", b"3.6.15").replace(*(struct.pack("<Q", v) for v in VERSIONS)))


if __name__ == "__main__":
    main()
