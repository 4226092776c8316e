// Where a segment's keys and values lie: one behind the other from kStart on, or, with BLOCK above 0, in blocks of so many
// rows, whose list begins at place kStart of "blocks".

fn keyRow(kStart: u32, key: u32) -> u32 {
  if (BLOCK == 0u) { return kStart + key; }
  return u32(blocks[p.blocks + kStart + key / KEYS_A_BLOCK]) * KEYS_A_BLOCK + key % KEYS_A_BLOCK;
}

const KEYS_A_BLOCK = max(BLOCK, 1u);
