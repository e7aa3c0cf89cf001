"""Compiled kernels for the CPU: how they are written, and where what is.

Everything here is compiled by numba while the program runs, so no compiler is needed on the user's machine; the
machine code is kept on disk (`disk_cache`). numba's own vectoriser is not relied on: vectors are values of a type of
their own, whose operations generate LLVM's code directly.

- `simd`: sixteen float32 numbers as one value, and what can be computed with them. LLVM maps them to the registers
  that the processor has, so these loops run on any of them.
- `packed_simd`: sixteen int32 sums of products of packed weights with int16 activations; look-ups of NF4's values.
- `variants`: the instructions that do this on each kind of processor (AVX2, AVX-VNNI, AVX512, AVX512-VNNI, NEON), as
  classes. LLVM must not see an instruction that the processor lacks, so `supported` reads the processor's features
  first.
- `*_loops`: loops over flat arrays in terms of these values. `threads.share_out` spreads their tasks over torch's
  OpenMP threads (`openmp`); a result never depends on how many there are.
- `*_stack_loops`: a token's way through all layers as one call, in which the threads wait for each other some times a
  layer (`threads.in_each_thread`) instead of being woken for each product; tensors come as a table of addresses
  (`pointers`).
- `tiles`: products of many rows with packed weights by AMX, where the processor has it.
- The modules without a suffix (`scan`, `step`, `attention`, `packed`, `stack`) take tensors and return None for what
  their loops do not take; `kernels`, `linear`, `packed` and `stack` one folder up choose between them and plain torch.

A product of one row reads each weight once, so memory bounds it, and the loops are written for that:

- A weight is read in the order in which it lies. Processors do not fetch far enough ahead by themselves: a prefetch
  several kilobytes ahead makes a product of one row 1.1 to 1.9 times as fast.
- NF4: 32 bytes are a block of 64 weights. Their halves are indices into a table of sixteen values of 15 bits: by
  pshufb, one look-up for the lower bytes of the entries and one for the upper ones, whose results are interleaved to
  int16; or by vpermw on AVX512, which takes four bits at any place of a word as the index of a whole entry.
  Activations are rounded to int16 with a scale for each 64, and stored in the order in which the look-ups give the
  weights. pmaddwd multiplies and adds pairs: eight products of 14 bits and a sign each fit an int32, which is one
  lane of a block. Then the sums are widened to float32 and multiplied by the scales of weights and activations.
- int8: bytes are widened to int16 and multiplied in the same way; the scale of a row of weights comes last.

So activations keep 15 bits and not the 8 that such kernels often round them to: the loops stay bound by memory, and a
product differs from the exact one by 5e-5 of its size where 8 bits would cost some hundred times as much.
"""
