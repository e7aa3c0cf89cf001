"""Products of five and more bfloat16 rows with packed weights, by the tiles of AMX.

A tile holds 16 rows of 64 bytes. `tdpbf16ps` adds to a tile of 16 x 16 float32 sums the product of 16 x 32 and 32 x 16
bfloat16 numbers, the latter as 16 rows of 16 pairs (Intel's "Intrinsics Guide", AMX-BF16). The first are weights as
they are unpacked, 16 outputs; the second are 16 rows of activations, turned before; so the sums come out turned as
well, and are turned back while they are rounded.

Weights are unpacked in chunks that stay in the second-level cache, in the order in which the tiles are read: no
unpacked weight goes through memory, and nothing lays it out once more, which is what a product of slices by torch
spends its time on. While one chunk is multiplied, the next one is unpacked between the instructions of the product, a
few weights at a time: a processor looks some hundred instructions ahead, so its tiles and its vectors work side by
side. With few rows, for which weights come too slowly, a chunk is 32 whole rows of the weight, so that memory is read
in its own order.

`instructions` are LLVM's, `product` is the loop.
"""
