// Writes the 1 to 3 bytes that end an upload whose length is no multiple of four, leaving the rest of the word alone.

struct Params { y: u32, mask: u32, value: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(1)
fn main() {
  y[p.y] = (y[p.y] & ~p.mask) | (p.value & p.mask);
}
