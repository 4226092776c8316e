// Types of embed-wgsl.mjs, for vitest.config.ts.

/** Brings src/backend/webgpu/shaders.ts up to date. */
export declare function writeShaders(): void;
