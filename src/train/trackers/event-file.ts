// The bytes of TensorBoard's event files: records of TensorFlow's "TFRecord" framing that hold protocol buffers.
//
//   record    u64 length of data | u32 checksum of these 8 bytes | data | u32 checksum of data        little-endian
//   checksum  CRC-32C, turned right by 15 bits, plus 0xa282ead8
//   Event     1 wall_time f64 | 2 step i64 | 3 file_version text | 5 Summary | 7 SessionLog
//   Summary   1 Value*: 1 tag | 2 simple_value f32 | 8 TensorProto | 9 SummaryMetadata
//
// Field numbers: tensorboard/compat/proto/{event,summary,tensor,tensor_shape,types}.proto and
// plugins/hparams/plugin_data.proto. Not here: which files there are and when they are written (tensorboard.ts).

const encoder = new TextEncoder();

/** Event files of this version tell restarts by a SessionLog. */
const fileVersion = "brain.Event:2";
const sessionStart = 1;
const typeString = 7;
const dataClassTensor = 2;

export type RecipeValue = string | number | boolean;

/** The first record of a file. */
export function versionRecord(seconds: number, step: number): Uint8Array {
  return recordOf(eventOf(seconds, step, bytesField(3, encoder.encode(fileVersion))));
}

/** Readers forget what they have read of this step and later ones: the run goes on from here. */
export function restartRecord(seconds: number, step: number): Uint8Array {
  return recordOf(eventOf(seconds, step, bytesField(7, varintField(1, sessionStart))));
}

export function scalarsRecord(
  seconds: number,
  step: number,
  values: Readonly<Record<string, number>>,
): Uint8Array {
  const summary = Object.entries(values).map(([tag, value]) =>
    bytesField(1, joined([bytesField(1, encoder.encode(tag)), f32Field(2, value)])),
  );
  return recordOf(eventOf(seconds, step, bytesField(5, joined(summary))));
}

/** Markdown, as the text plugin shows it. */
export function textRecord(seconds: number, step: number, tag: string, markdown: string): Uint8Array {
  const tensor = joined([
    varintField(1, typeString),
    bytesField(2, bytesField(2, varintField(1, 1))),
    bytesField(8, encoder.encode(markdown)),
  ]);
  return valueRecord(seconds, step, tag, [
    bytesField(8, tensor),
    pluginField("text", new Uint8Array(0), true),
  ]);
}

/** What the run was started with, as the hparams plugin shows it. */
export function recipeRecord(
  seconds: number,
  group: string,
  recipe: Readonly<Record<string, RecipeValue>>,
): Uint8Array {
  const entries = Object.entries(recipe).map(([key, value]) =>
    bytesField(1, joined([bytesField(1, encoder.encode(key)), bytesField(2, protobufValue(value))])),
  );
  const start = joined([...entries, bytesField(4, encoder.encode(group)), f64Field(5, seconds)]);
  const content = bytesField(3, start);
  return valueRecord(seconds, 0, "_hparams_/session_start_info", [pluginField("hparams", content, false)]);
}

/** google.protobuf.Value: 2 number f64, 3 text, 4 bool. */
function protobufValue(value: RecipeValue): Uint8Array {
  if (typeof value === "number") return f64Field(2, value);
  return typeof value === "boolean" ? varintField(4, value ? 1 : 0) : bytesField(3, encoder.encode(value));
}

function valueRecord(seconds: number, step: number, tag: string, fields: readonly Uint8Array[]): Uint8Array {
  const value = joined([bytesField(1, encoder.encode(tag)), ...fields]);
  return recordOf(eventOf(seconds, step, bytesField(5, bytesField(1, value))));
}

/** SummaryMetadata: 1 PluginData (1 name, 2 content) | 4 class of data. */
function pluginField(name: string, content: Uint8Array, isTensor: boolean): Uint8Array {
  const data = joined([
    bytesField(1, encoder.encode(name)),
    ...(content.length > 0 ? [bytesField(2, content)] : []),
  ]);
  const metadata = [bytesField(1, data), ...(isTensor ? [varintField(4, dataClassTensor)] : [])];
  return bytesField(9, joined(metadata));
}

function eventOf(seconds: number, step: number, what: Uint8Array): Uint8Array {
  return joined([f64Field(1, seconds), ...(step === 0 ? [] : [varintField(2, step)]), what]);
}

function varintField(field: number, value: number): Uint8Array {
  return joined([varint(field * 8), varint(value)]);
}

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return joined([varint(field * 8 + 2), varint(bytes.length), bytes]);
}

function f32Field(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return joined([varint(field * 8 + 5), bytes]);
}

function f64Field(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value, true);
  return joined([varint(field * 8 + 1), bytes]);
}

/** A whole number of at least 0 and at most 2^53 - 1, 7 bits a byte, the lowest first. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let left = value;
  for (; left >= 128; left = Math.floor(left / 128)) bytes.push((left % 128) | 128);
  bytes.push(left);
  return Uint8Array.from(bytes);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function recordOf(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, checksum(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, checksum(data), true);
  return record;
}

/** CRC-32C (Castagnoli), reflected polynomial, a byte at a time. */
const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255]! ^ (crc >>> 8);
  crc = ~crc;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
