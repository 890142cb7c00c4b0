/* The two images that the launcher carries (plan.h names them). */
        .section .rodata
        .macro  image name, file
        .p2align 6
        .globl  \name
        .globl  \name\()_end
\name:
        .incbin "\file"
\name\()_end:
        .byte   0
        .endm
        image   inject_agent_image, agent.so
        image   inject_loader_image, loader.bin
        .section .note.GNU-stack, "", @progbits
