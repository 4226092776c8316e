// What holds each side of run.mjs to an instruction set: variables for its process alone. PyTorch's own kernels, oneDNN
// and MKL each read one. On AMD's processors MKL runs kernels of its own for them, in AVX2, whatever it is told
// (mkl_blas_def_sgemm_kernel_0_zen, as `perf` shows). bitsandbytes asks the processor and cannot be held: where there is
// AVX-512, its decoder of 4-bit weights uses it in any case, to PEFT's advantage.

const sides = {
  avx2: { ATEN_CPU_CAPABILITY: "avx2", ONEDNN_MAX_CPU_ISA: "AVX2", MKL_ENABLE_INSTRUCTIONS: "AVX2" },
  avx512: {
    ...{ ATEN_CPU_CAPABILITY: "avx512", ONEDNN_MAX_CPU_ISA: "AVX512_CORE" },
    MKL_ENABLE_INSTRUCTIONS: "AVX512",
  },
  avx512bf16: {
    ...{ ATEN_CPU_CAPABILITY: "avx512", ONEDNN_MAX_CPU_ISA: "AVX512_CORE_BF16" },
    MKL_ENABLE_INSTRUCTIONS: "AVX512",
  },
  amx: {
    ...{ ATEN_CPU_CAPABILITY: "avx512", ONEDNN_MAX_CPU_ISA: "AVX512_CORE_AMX" },
    MKL_ENABLE_INSTRUCTIONS: "AVX512",
  },
};

export const isas = Object.keys(sides);

/** Variables for lowrank's process. */
export const lowrankEnvironment = (isa) => (isa ? { LOWRANK_ISA: isa } : {});

/** Variables for PyTorch's process. */
export const torchEnvironment = (isa) => (isa ? sides[isa] : {});

/** Without bf16 instructions both sides are at their best in fp32. */
export const defaultCases = (isa) =>
  isa === "avx2" || isa === "avx512"
    ? "135m-256-fp32,135m-256-qlora-fp32,1b-512-fp32"
    : "135m-256,135m-512,1b-512,135m-256-fp32";
