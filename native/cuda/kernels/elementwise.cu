// Kernels that work element by element: fill, cast, addInPlace, scaleInPlace, fillUniform. A thread takes four neighbours, as
// tensors begin at multiples of 256 bytes. Not here: sums (reduce.cu), activations and norms, updates (updates.cu).

/** Calls whole(i) for four elements from i, or single(j) for each of the last ones; 1024 elements a block of 256. */
template <typename Whole, typename Single>
FN void fourEach(u64 n, Whole whole, Single single) {
  const u64 i = (static_cast<u64>(blockIdx.x) * 256 + threadIdx.x) * 4;
  if (i + 4 <= n) whole(i);
  else
    for (u64 j = i; j < n; j++) single(j);
}

struct fillArguments {
  float* y;
  u64 n;
  float value;
};
KERNEL(fill, fillArguments, 256, 1, 0) {
  const float4 four = make_float4(a.value, a.value, a.value, a.value);
  fourEach(a.n, [&](u64 i) { *reinterpret_cast<float4*>(a.y + i) = four; }, [&](u64 j) { a.y[j] = a.value; });
}

struct addInPlaceArguments {
  const float* x;
  float* y;
  u64 n;
};
KERNEL(addInPlace, addInPlaceArguments, 256, 1, 0) {
  fourEach(
      a.n,
      [&](u64 i) {
        const float4 x = *reinterpret_cast<const float4*>(a.x + i), y = *reinterpret_cast<const float4*>(a.y + i);
        *reinterpret_cast<float4*>(a.y + i) = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
      },
      [&](u64 j) { a.y[j] += a.x[j]; });
}

struct scaleInPlaceArguments {
  float* y;
  u64 n;
  float factor;
};
KERNEL(scaleInPlace, scaleInPlaceArguments, 256, 1, 0) {
  const float f = a.factor;
  fourEach(
      a.n,
      [&](u64 i) {
        const float4 y = *reinterpret_cast<const float4*>(a.y + i);
        *reinterpret_cast<float4*>(a.y + i) = make_float4(y.x * f, y.y * f, y.z * f, y.w * f);
      },
      [&](u64 j) { a.y[j] *= f; });
}

struct castArguments {
  const void* x;
  void* y;
  u64 n;
  u32 xType, yType;
};
KERNEL(cast, castArguments, 256, 1, 0) {
  // Neighbouring threads take neighbouring elements: the widths differ.
  const u64 first = static_cast<u64>(blockIdx.x) * 1024 + threadIdx.x;
  for (u64 i = first; i < first + 1024 && i < a.n; i += 256) {
    if (a.xType == kF64 && a.yType == kF64) static_cast<double*>(a.y)[i] = static_cast<const double*>(a.x)[i];
    else storeAs(a.y, a.yType, i, loadAs(a.x, a.xType, i));
  }
}

struct fillUniformArguments {
  void* y;
  u64 n, seed;
  double bound;
  u32 stream, yType;
};
KERNEL(fillUniform, fillUniformArguments, 256, 1, 0) {
  const u64 block = static_cast<u64>(blockIdx.x) * 256 + threadIdx.x;
  if (block * 4 >= a.n) return;
  u32 bits[4];
  philox(block, a.stream, a.seed, bits);
  UNROLL
  for (int lane = 0; lane < 4; lane++) {
    if (block * 4 + lane >= a.n) continue;
    // In double, as every backend: the product is rounded once.
    const double value = (bits[lane] / 2147483648.0 - 1.0) * a.bound;
    storeAs(a.y, a.yType, block * 4 + lane, static_cast<float>(value));
  }
}
