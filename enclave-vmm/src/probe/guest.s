# The probe's guest: what the first seconds of an ordinary kernel are made of, in long mode with the first GiB mapped one to
# one. Before each part it writes the part's number to port 0x99; at the end 0xff, or 0xfe where a result was wrong. The
# numbers' names are in probe.rs.
.pushsection .rodata.probe_guest, "a"
.balign 16
.macro probe_step number
    mov al, \number
    out 0x99, al
.endm
.globl enclave_probe_guest_start
.globl enclave_probe_guest_timer
.globl enclave_probe_guest_end
enclave_probe_guest_start:
    probe_step 1
    xor eax, eax
    cpuid
    mov eax, 1
    xor ecx, ecx
    cpuid
    mov r15d, ecx

    probe_step 2                # EFER.SCE: SYSCALL on
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1
    wrmsr
    rdmsr
    test al, 1
    jz .Lprobe_wrong

    probe_step 3                # CR0: WP, NE, MP on, EM off; CR4: OSFXSR, OSXMMEXCPT
    mov rax, cr0
    or eax, 0x10022
    and al, 0xfb
    mov cr0, rax
    mov rax, cr4
    or eax, 0x600
    mov cr4, rax

    probe_step 4                # unaligned, over page borders
    cld
    mov edi, 0x20ffd
    mov ecx, 3001
    mov al, 0x5a
    rep stosb
    mov esi, 0x20ffd
    mov edi, 0x30ff3
    mov ecx, 3001
    rep movsb
    mov edi, 0x40000
    mov ecx, 600
    mov rax, 0x5a5a5a5a5a5a5a5a
    rep stosq
    mov esi, 0x30ff3
    mov edi, 0x40000
    mov ecx, 3001
    repe cmpsb
    jne .Lprobe_wrong

    probe_step 5
    fninit
    movdqu xmm0, [0x40001]
    movdqu xmm1, [0x30ff3]
    pxor xmm0, xmm1
    movq rax, xmm0
    test rax, rax
    jnz .Lprobe_wrong
    fxsave64 [0x50000]
    fxrstor64 [0x50000]

    probe_step 6                # XSAVE, where CPUID announces it
    bt r15d, 26
    jnc .Lprobe_atomics
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    xor ecx, ecx
    xgetbv
    mov eax, 3
    xor edx, edx
    xsetbv
    mov eax, 3
    xsave64 [0x51000]
    mov eax, 3
    xrstor64 [0x51000]

.Lprobe_atomics:
    probe_step 7
    mov eax, 5
    lock xadd [0x60000], eax
    mov eax, 5
    mov ebx, 9
    lock cmpxchg [0x60000], ebx
    jnz .Lprobe_wrong
    mov rax, [0x60010]
    mov rdx, [0x60018]
    mov ecx, 1
    mov ebx, 7
    lock cmpxchg16b [0x60010]
    jnz .Lprobe_wrong
    bsf rax, rcx
    imul rax, rbx, 3
    rdtsc
    pushfq
    popfq

    probe_step 8                # a device's registers, which leave KVM
    mov ebx, 0xd0000000
    mov dword ptr [rbx], 0x1ee7c0de
    mov eax, [rbx + 4]
    cmp eax, 0x600df00d
    jne .Lprobe_wrong

    probe_step 9                # the local APIC's version, 0x1X
    mov ebx, 0xfee00000
    mov eax, [rbx + 0x30]
    and eax, 0xf0
    cmp eax, 0x10
    jne .Lprobe_wrong

    probe_step 10               # sleep until the APIC's timer (one shot, divided by 1, vector 0x40) interrupts
    lidt [0x7000]
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov dword ptr [rbx + 0x3e0], 0xb
    mov dword ptr [rbx + 0x320], 0x40
    xor ebp, ebp
    mov dword ptr [rbx + 0x380], 100000
.Lprobe_sleep:
    sti
    hlt
    cli
    test ebp, ebp
    jz .Lprobe_sleep

    probe_step 0xff
    jmp .Lprobe_stop
.Lprobe_wrong:
    probe_step 0xfe
.Lprobe_stop:
    hlt
    jmp .Lprobe_stop

.balign 16
enclave_probe_guest_timer:
    inc ebp
    mov dword ptr [rbx + 0xb0], 0
    iretq
enclave_probe_guest_end:
.purgem probe_step
.popsection
