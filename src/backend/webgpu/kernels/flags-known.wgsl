// Which addends a product has is known when the shader is made: where a branch that is not taken costs as if it were.

fn adds(flag: u32) -> bool { return (FLAGS & flag) != 0u; }
