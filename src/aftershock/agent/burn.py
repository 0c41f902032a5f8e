"""Kernels of our own that keep a GPU's processors, or its memory's wires, busy; in PTX.

Written for sm_70 and the oldest PTX that has it, so that every driver since compiles them. Each
takes a buffer, how many rounds it goes, and the buffer's last index (a power of two, less one).
"""

from __future__ import annotations

_HEAD = """
.version 6.0
.target sm_70
.address_size 64
"""
# Two chains of multiply-adds that stay between 0 and 2; the store keeps them from being dropped.
COMPUTE = (
    _HEAD
    + """
.visible .entry compute(.param .u64 buffer, .param .u32 rounds, .param .u32 last)
{
    .reg .pred %more;
    .reg .b32 %r<8>;
    .reg .f32 %f<6>;
    .reg .b64 %d<4>;
    ld.param.u64 %d0, [buffer];
    ld.param.u32 %r0, [rounds];
    ld.param.u32 %r1, [last];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.u32 %r5, %r3, %r4, %r2;
    and.b32 %r5, %r5, %r1;
    cvt.rn.f32.u32 %f0, %r2;
    mov.f32 %f1, 0f3F000000;
    mov.f32 %f2, 0f3E800000;
    mov.u32 %r6, 0;
AGAIN:
    fma.rn.f32 %f0, %f0, %f1, %f2;
    fma.rn.f32 %f2, %f2, %f1, %f1;
    fma.rn.f32 %f0, %f0, %f1, %f2;
    fma.rn.f32 %f2, %f2, %f1, %f1;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %more, %r6, %r0;
    @%more bra AGAIN;
    add.f32 %f3, %f0, %f2;
    mul.wide.u32 %d1, %r5, 4;
    cvta.to.global.u64 %d2, %d0;
    add.u64 %d2, %d2, %d1;
    st.global.f32 [%d2], %f3;
    ret;
}
"""
)
# Each thread reads and writes a word, and goes on by a stride that leaves the caches behind.
BANDWIDTH = (
    _HEAD
    + """
.visible .entry bandwidth(.param .u64 buffer, .param .u32 rounds, .param .u32 last)
{
    .reg .pred %more;
    .reg .b32 %r<10>;
    .reg .b64 %d<4>;
    ld.param.u64 %d0, [buffer];
    ld.param.u32 %r0, [rounds];
    ld.param.u32 %r1, [last];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r8, %nctaid.x;
    mad.lo.u32 %r5, %r3, %r4, %r2;
    mul.lo.u32 %r9, %r8, %r4;
    cvta.to.global.u64 %d2, %d0;
    mov.u32 %r6, 0;
AGAIN:
    and.b32 %r5, %r5, %r1;
    mul.wide.u32 %d1, %r5, 4;
    add.u64 %d3, %d2, %d1;
    ld.global.u32 %r7, [%d3];
    add.u32 %r7, %r7, 1;
    st.global.u32 [%d3], %r7;
    add.u32 %r5, %r5, %r9;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %more, %r6, %r0;
    @%more bra AGAIN;
    ret;
}
"""
)
KERNELS = {"compute": COMPUTE, "bandwidth": BANDWIDTH}
BUFFER_BYTES = {"compute": 1 << 20, "bandwidth": 1 << 28}  # the second is beyond any cache
THREADS = 256
BLOCKS_EACH = 8  # of a multiprocessor: as many as it holds of such threads
