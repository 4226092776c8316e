// Types of embed-wgsl.mjs, for the test that imports it.

/** The text that src/backend/webgpu/kernels.ts must have. */
export declare function embeddedKernels(): string;
