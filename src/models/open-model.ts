// Opens a model folder for use: configuration, weights on a device, tokenizer, and an adapter when there is one.
// What train, eval, generate and bench share. Tokenizers and folders are opened by formats/ and text/.

import type { Backend } from "../backend/backend.ts";
import { parseQuantizationConfig } from "../formats/bnb-config.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { type LoadedAdapter, readAdapter } from "../formats/peft.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { type OpenedText, openText, type TextSources } from "../text/open-text.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";
import { attachLoadedAdapter, type DecoderAdapter } from "./adapter.ts";
import { vocabularyOf } from "./adapter-plan.ts";
import { hasBlocks, storedInBlocks } from "./block-weights.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { readFolderConfig } from "./folder-config.ts";
import { type LoadedDecoder, type LoadOptions, loadDecoder, type WeightSource } from "./load-model.ts";
import { storedIn4Bits } from "./quantized-weights.ts";
import { resizedSource } from "./resized-source.ts";

export interface OpenedModel extends AsyncDisposable {
  readonly path: string;
  readonly folder: ModelFolder;
  readonly config: DecoderConfig;
  /** Tokens of the model, without the room for adapters' tokens that config.vocabularySize may hold. */
  readonly vocabularySize: number;
  readonly tokenizer: Tokenizer;
  /** Tokenizer and chat template, and where they came from. */
  readonly text: OpenedText;
  readonly loaded: LoadedDecoder;
  /** Present when an adapter folder was given. */
  readonly adapter?: DecoderAdapter;
  /** Frees the device memory and closes the files. */
  close(): Promise<void>;
}

export interface OpenOptions extends LoadOptions {
  /** Folder of a PEFT adapter to attach for inference. */
  readonly adapter?: string;
  /** Give embedding and head the vocabulary of this adapter, which will be attached later. */
  readonly vocabularyOf?: LoadedAdapter;
  /** Leave room in embedding and head for the tokens of adapters that requests will bring (adapter-set.ts). */
  readonly roomFor?: readonly LoadedAdapter[];
  /** Hears what was found and taken that the user may not expect. */
  readonly tell?: (message: string) => void;
  /**
   * What decides the text besides the model's folder: an adapter's folder (by default `adapter`), and flags. Embedding
   * and head have rows for all tokens of an extended tokenizer.
   */
  readonly text?: Omit<TextSources, "model">;
}

/** Opens the model in a folder of Hugging Face layout. Throws UserError for whatever is missing or unsupported. */
export async function openModel(
  backend: Backend,
  path: string,
  options: OpenOptions = {},
): Promise<OpenedModel> {
  const folder = await openModelFolder(path);
  try {
    const stored = await readFolderConfig(folder);
    for (const note of stored.notes) options.tell?.(`${path}: ${note}`);
    const text = await openText({ adapter: options.adapter, ...options.text, model: path });
    const { tokenizer } = text;
    const given = options.adapter === undefined ? undefined : await readAdapter(options.adapter);
    if (given && given.unknownKeys.length > 0) {
      options.tell?.(
        `${options.adapter}: keys of adapter_config.json that are not known here, and not used: ${given.unknownKeys.join(", ")}`,
      );
    }
    const sized = given ?? options.vocabularyOf;
    const tables = sized ? vocabularyOf(stored, sized) : stored.vocabularySize;
    const own = options.text?.extended === undefined ? tables : Math.max(tables, tokenizer.vocabSize);
    const others = (options.roomFor ?? []).map((adapter) => vocabularyOf(stored, adapter));
    const vocabularySize = Math.max(own, ...others);
    const config = { ...stored, vocabularySize };
    if (tokenizer.vocabSize > own) {
      throw new UserError(
        text.tokenizerFrom === "adapter"
          ? `${options.adapter}: the tokenizer beside the adapter has ${tokenizer.vocabSize} tokens, but embedding and head only ${own} rows; they do not belong together`
          : `${path}: the tokenizer has ${tokenizer.vocabSize} tokens but the model's embedding only ${own}; they do not belong together`,
      );
    }
    const source = resizedSource(
      deviceSource(backend, folder, options),
      stored.vocabularySize,
      vocabularySize,
    );
    const loaded = await loadDecoder(backend, config, source, options);
    let adapter: DecoderAdapter | undefined;
    try {
      if (given) adapter = attachLoadedAdapter(loaded, given, { trains: false });
    } catch (error) {
      loaded.free();
      throw error;
    }
    const close = async () => {
      adapter?.free();
      loaded.free();
      await folder.close();
    };
    return {
      path,
      folder,
      config,
      vocabularySize: own,
      tokenizer,
      text,
      loaded,
      adapter,
      close,
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await folder.close();
    throw error;
  }
}

/** A model folder as a source of weights for a device, those in 4 bits or in blocks as they are. */
export function deviceSource(backend: Backend, folder: ModelFolder, options: LoadOptions = {}): WeightSource {
  const quantized = storedIn4Bits(backend, folder) ?? storedInBlocks(backend, folder);
  const why = options.train ? whyNotTrained(folder) : undefined;
  if (why !== undefined) throw new UserError(why);
  // Beside gpt-oss' experts its file can hold nothing in 4 bits.
  return { ...folderSource(folder), quantized, quantizesRest: isInMxfp4(folder) };
}

const isInMxfp4 = ({ stacks }: ModelFolder) =>
  [...(stacks?.values() ?? [])].some(({ form }) => form === "mxfp4");

/** Why full fine-tuning cannot have this folder's weights; undefined where it can. */
export function whyNotTrained(folder: ModelFolder): string | undefined {
  if (isInMxfp4(folder)) {
    return `${folder.path}: its experts are in MXFP4, 4 bits which full fine-tuning cannot train. --method lora and --method qlora leave them as they are and train adapters, of the experts too with --targets experts; to train every weight, give it the model in 16 bits (transformers' Mxfp4Config(dequantize=True) and save_pretrained)`;
  }
  if (parseQuantizationConfig(folder.config, `${folder.path}/config.json`) || hasBlocks(folder)) {
    return `${folder.path}: the weights are quantised, which full fine-tuning cannot train; use --method lora or qlora, or the unquantised model`;
  }
  return undefined;
}

/** A model folder as a source of its dense weights. */
export function folderSource(folder: ModelFolder): WeightSource {
  return {
    path: folder.path,
    find(name) {
      const entry = folder.tensors.get(name);
      if (!entry) return undefined;
      const dtype = fromSafetensorsDType(entry.dtype);
      if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16" && dtype !== "f64") {
        const hint =
          dtype === "u8"
            ? ". It looks quantised, but config.json has no quantization_config that says how"
            : "";
        throw new UserError(
          `${folder.path}: tensor "${name}" has dtype ${entry.dtype}; expected F32, F16 or BF16${hint}`,
        );
      }
      return { dtype, shape: entry.shape };
    },
    read: (name, offset, length) => folder.readRange(name, offset, length),
  };
}
