// What an open model folder offers: its configuration, and tensors by name. model-folder.ts opens one; expert-tensors.ts
// shows a mixture's experts in it as stacks.

import type { ByteSource } from "./byte-source.ts";
import type { ExpertForm } from "./expert-layout.ts";
import type { JsonObject } from "./json.ts";
import type { TensorEntry } from "./safetensors.ts";

/** One weight of all experts of a layer. */
export interface ExpertStack {
  readonly shape: readonly [experts: number, out: number, width: number];
  readonly form: ExpertForm;
  /** Stored tensors: of each expert, its matrices that follow one another in rows; or those of all experts. */
  readonly parts: readonly (readonly string[])[];
  /** Gate and up. */
  readonly paired: boolean;
  /** The folder under the names that its files have. */
  readonly stored: ModelFolder;
}

export interface ModelFolder {
  readonly path: string;
  readonly config: JsonObject;
  /** Absent when the folder has no generation_config.json. */
  readonly generationConfig: JsonObject | undefined;
  /**
   * By their full names, in the order of the bytes on disk, so that reading them in turn is sequential. What lies in the
   * text tower of a larger model goes by the tower's own names; experts are stacks (expert-tensors.ts).
   */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Of a mixture's experts, how the files hold the stacks among `tensors`; absent where there are none. */
  readonly stacks?: ReadonlyMap<string, ExpertStack>;
  /** Bytes of all tensors. */
  readonly weightBytes: number;
  /** The weight files, in order. */
  readonly files: readonly { readonly name: string; readonly source: ByteSource }[];
  /** The name under which files of this layout hold a tensor. */
  storedName(name: string): string;
  /** The whole tensor in an ArrayBuffer of its own. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Fills `into`, which is as long as the tensor. */
  readInto(name: string, into: Uint8Array): Promise<void>;
  readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}
