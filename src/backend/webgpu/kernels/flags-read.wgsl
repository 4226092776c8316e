// Which addends a product has is read from its parameters: one shader serves all of them.

fn adds(flag: u32) -> bool { return (p.flags & flag) != 0u; }
