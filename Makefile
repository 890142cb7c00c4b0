# mempulse: build, demo, test.
#
#   make          build/mempulse, one file with the agent inside
#   make demo     build, then watch a growing service (installs what is missing)
#   make test     build and run every test          (installs what is missing)
#   make fuzz     libFuzzer on every reader of foreign bytes, FUZZ_SECONDS=3600 each; FUZZ=names
#   make matrix   every live test on every interpreter found
#   make asan     launcher and unit tests under address and undefined sanitizers
#   make campaign states of a target x interpreters x actions, BUDGET=30 minutes; then $(BUILD)/campaign/reliability.md
#   make campaign-faults  a launcher that dies, or runs out of memory, at each step
#   make campaign-roots   targets in other Debian releases for it: other libcs, other Pythons
#   make campaign-kernels its core on Linux 5.10, 6.1 and 6.12, under qemu
#   make bench    cost, measured against the goals and other tools
#   make install  PREFIX=/usr/local DESTDIR=
#   make clean
#
# Variables: CC, CFLAGS (optimisation and debugging only), BUILD (output folder),
# STATIC=0 (link the launcher against shared libraries), WERROR=1.

BUILD ?= build
PREFIX ?= /usr/local
STATIC ?= 1
CC = gcc
CFLAGS ?= -O2 -g
VERSION := 0.1.0

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
        -Wwrite-strings -Wvla -Wundef -Wformat=2 -Wno-missing-field-initializers
ifeq ($(WERROR),1)
WARN += -Werror
endif

STD := -std=gnu11
LAUNCHER_CFLAGS := $(STD) $(WARN) -D_GNU_SOURCE -DMP_VERSION='"$(VERSION)"' -iquote include -iquote src \
                   -fno-strict-aliasing -MMD -MP
# The payload: no libc, no constructors, no TLS, no stack protector (it would read
# the target's %fs before there is one), no builtin calls it does not bring itself.
NO_LOOP_IDIOMS := $(shell $(CC) -fno-tree-loop-distribute-patterns -E -x c /dev/null >/dev/null 2>&1 \
                    && echo -fno-tree-loop-distribute-patterns)
PAYLOAD_CFLAGS := $(STD) $(WARN) -O2 -g -fPIC -ffreestanding -fno-builtin -fno-stack-protector \
                  -fcf-protection=none -fvisibility=hidden -fno-strict-aliasing -fno-common \
                  $(NO_LOOP_IDIOMS) -U_FORTIFY_SOURCE \
                  -iquote include -iquote payload -MMD -MP

LIBS := -lelf -lcapstone -ljson-c
ifeq ($(STATIC),1)
LAUNCHER_LIBS = -static $(shell pkg-config --static --libs libelf capstone json-c 2>/dev/null || echo $(LIBS) -lz)
else
LAUNCHER_LIBS = $(LIBS)
endif

# Fault points (src/base/fault.h), for `make campaign-faults` and the slice of it in `make test`.
ifeq ($(FAULTS),1)
LAUNCHER_CFLAGS += -DMP_FAULTS
LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
endif

LIB_SRC := $(sort $(wildcard src/base/*.c src/target/*.c src/stream/*.c src/inject/*.c src/render/*.c))
CMD_SRC := $(sort $(wildcard src/*.c))
AGENT_SRC := $(sort $(wildcard payload/agent/*.c payload/agent/*.S))
LOADER_SRC := $(sort $(wildcard payload/loader/*.c payload/loader/*.S))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))

LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o) $(BUILD)/src/inject/blobs.o
CMD_OBJ := $(CMD_SRC:%.c=$(BUILD)/%.o)
AGENT_OBJ := $(patsubst %,$(BUILD)/%.o,$(basename $(AGENT_SRC)))
LOADER_OBJ := $(patsubst %,$(BUILD)/%.o,$(basename $(LOADER_SRC)))
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)

all: $(BUILD)/mempulse

$(BUILD)/mempulse: $(CMD_OBJ) $(BUILD)/libmempulse.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LAUNCHER_LIBS)

$(BUILD)/libmempulse.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/src/%.o: src/%.c | deps
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LAUNCHER_CFLAGS) -c -o $@ $<

# The two images that the launcher carries.
$(BUILD)/src/inject/blobs.o: src/inject/blobs.S $(BUILD)/agent.so $(BUILD)/loader.bin
	@mkdir -p $(@D)
	$(CC) -c -iquote include -I$(BUILD) -o $@ $<

$(BUILD)/payload/%.o: payload/%.c | deps
	@mkdir -p $(@D)
	$(CC) $(PAYLOAD_CFLAGS) -c -o $@ $<

$(BUILD)/payload/%.o: payload/%.S | deps
	@mkdir -p $(@D)
	$(CC) $(PAYLOAD_CFLAGS) -c -o $@ $<

$(BUILD)/agent.debug.so: $(AGENT_OBJ) payload/agent/agent.map
	$(CC) -shared -nostdlib -nostartfiles -Wl,-soname,mempulse-agent -Wl,-z,defs,-z,now,-z,relro,-z,noexecstack \
	  -Wl,--hash-style=both,--build-id=sha1,--version-script=payload/agent/agent.map -o $@ $(AGENT_OBJ)

$(BUILD)/agent.so: $(BUILD)/agent.debug.so
	objcopy --strip-debug $< $@

$(BUILD)/loader.elf: $(LOADER_OBJ) payload/loader/loader.ld
	$(LD) -nostdlib -z noexecstack --no-warn-rwx-segments -T payload/loader/loader.ld -o $@ $(LOADER_OBJ)

$(BUILD)/loader.bin: $(BUILD)/loader.elf
	objcopy -O binary $< $@

# Unit tests (Check). Each is a program of its own.
$(BUILD)/unit/test_disasm: WRAP = -Wl,--wrap=malloc,--wrap=calloc
$(BUILD)/unit/test_borrow: WRAP = -Wl,--wrap=process_vm_readv
$(BUILD)/unit/test_turns: WRAP = -Wl,--wrap=proc_running
$(BUILD)/unit/%: tests/unit/%.c $(BUILD)/libmempulse.a | deps
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LAUNCHER_CFLAGS) -iquote tests/unit -iquote payload -o $@ $< $(BUILD)/libmempulse.a $(LDFLAGS) $(WRAP) \
	  $$(pkg-config --libs check) $(LIBS)

unit: $(UNIT_BIN)

# Fuzz targets (docs/fuzzing.md). With replay.o they give the corpus to the readers; `make
# fuzz` builds them a second time, with libFuzzer in its place.
FUZZ_SECONDS ?= 3600
FUZZ_CC ?= clang
FUZZ_DRIVER ?= $(BUILD)/fuzz/replay.o
FUZZ_BIN := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

$(BUILD)/libcommands.a: $(filter-out %/main.o,$(CMD_OBJ))
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/fuzz/replay.o: tests/fuzz/replay.c | deps
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LAUNCHER_CFLAGS) -c -o $@ $<

$(BUILD)/fuzz/%: tests/fuzz/fuzz_%.c $(FUZZ_DRIVER) $(BUILD)/libcommands.a $(BUILD)/libmempulse.a | deps
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) $(LAUNCHER_CFLAGS) -iquote payload -o $@ $< $(FUZZ_DRIVER) \
	  $(BUILD)/libcommands.a $(BUILD)/libmempulse.a $(LDFLAGS) $(LIBS)

replay: $(FUZZ_BIN)

fuzz:
	@if CC="$(FUZZ_CC)" tests/deps fuzz; then \
	  $(MAKE) BUILD=$(BUILD)/libfuzzer CC=$(FUZZ_CC) STATIC=0 CFLAGS='-O1 -g -fno-omit-frame-pointer' \
	    SAN='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' FUZZ_DRIVER= \
	    LDFLAGS='-fsanitize=fuzzer,address,undefined' replay && \
	  BUILD=$(BUILD)/libfuzzer tests/fuzz/run --seconds $(FUZZ_SECONDS) $(FUZZ); \
	else \
	  echo "no libFuzzer here: the corpus is replayed, nothing new is tried" >&2; \
	  $(MAKE) replay && BUILD=$(BUILD) tests/run -k "fuzz "; \
	fi

test: all unit replay
	$(MAKE) BUILD=$(BUILD)/faults FAULTS=1 all
	BUILD=$(BUILD) tests/run

# Every live test on every interpreter: half an hour.
matrix: all
	BUILD=$(BUILD) tests/live/run.py --all

asan:
	$(MAKE) BUILD=$(BUILD)/asan STATIC=0 CFLAGS='-O1 -g -fno-omit-frame-pointer' \
	  SAN='-fsanitize=address,undefined -fno-sanitize-recover=all' \
	  LDFLAGS='-fsanitize=address,undefined' all unit replay
	BUILD=$(BUILD)/asan tests/run --asan

demo: all
	BUILD=$(BUILD) tests/demo/run

# Cost, against the goals and other tools: an hour, and a five minutes' look.
bench: all
	BUILD=$(BUILD) tests/bench/run.py

bench-quick: all
	BUILD=$(BUILD) tests/bench/run.py --quick

# Sessions by the thousand, in every state a target can be in (tests/campaign/run.py --help).
# docs/reliability.md is written by CAMPAIGN="--report --output docs/reliability.md", and
# its section on kernels by the same in KERNELS.
BUDGET ?= 30
CAMPAIGN ?=
campaign: all
	BUILD=$(BUILD) tests/campaign/run.py --budget $(BUDGET) $(CAMPAIGN)

# Each state once, in four minutes.
campaign-slice: all
	BUILD=$(BUILD) tests/campaign/run.py --slice $(CAMPAIGN)

campaign-faults:
	$(MAKE) BUILD=$(BUILD)/faults FAULTS=1 all
	BUILD=$(BUILD) tests/campaign/run.py --faults --budget $(BUDGET) $(CAMPAIGN)

# Other Debian releases, in which the campaign then has targets.
campaign-roots:
	tests/campaign/roots.py

# The core of it on other kernels, under qemu (tests/campaign/kernels.py --help).
KERNELS ?=
campaign-kernels: all
	BUILD=$(BUILD) tests/campaign/kernels.py $(KERNELS)

install: all
	install -D -m 755 $(BUILD)/mempulse $(DESTDIR)$(PREFIX)/bin/mempulse
	install -D -m 644 docs/mempulse.1 $(DESTDIR)$(PREFIX)/share/man/man1/mempulse.1
	install -D -m 644 docs/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mempulse

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/mempulse $(DESTDIR)$(PREFIX)/share/man/man1/mempulse.1 \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mempulse

clean:
	rm -rf $(BUILD)

# Installs what the build, the demo and the tests need and the machine lacks.
deps:
	@CC="$(CC)" tests/deps

.PHONY: all matrix unit test replay fuzz asan demo bench bench-quick campaign campaign-slice campaign-faults campaign-roots campaign-kernels install uninstall clean deps
.SECONDARY:

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
