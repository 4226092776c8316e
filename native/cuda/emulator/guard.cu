// A launch that only the emulator has: it tells which bytes of the backend's memory are a block from here on, or no more one, in
// the order of the launches around it (driver.cc).
struct emulatorBlockArguments {
  u64 address, sizeBytes, capacity;
  u32 live;
};

KERNEL(emulatorBlock, emulatorBlockArguments, 32, 1, 0) {
  if (threadIdx.x == 0) emulator::markBlock(a.address, a.sizeBytes, a.capacity, a.live != 0);
}
