import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { root } from '#catalog.ts';
import { FrameError } from '#frame.ts';

const type = root.lookupType('fleetreel.v1.FrameBatch');

/** Bytes of the frames of one batch, before compression: what a reader has to hold at once. */
export const batchBytesMax = 8 * 1024 * 1024;

/** Frames of one batch. */
export const batchFramesMax = 1000;

/**
 * The wire form of some frames of one host. It may be larger than a message takes: then it has to be made of fewer.
 * @throws RangeError when they are more than a batch may hold
 */
export function encodeBatch(frames: readonly Uint8Array[]): Uint8Array {
  const bytes = type.encode({ frames, frame_count: frames.length }).finish();
  if (bytes.length > batchBytesMax || frames.length > batchFramesMax)
    throw new RangeError(`${frames.length} frames of ${bytes.length} bytes are more than one batch holds`);
  return zstdCompressSync(bytes);
}

/**
 * The frames of a batch, in its order, as their bytes.
 * @throws FrameError for bytes that are no batch
 */
export function decodeBatch(bytes: Uint8Array): Uint8Array[] {
  let batch: { frames: Uint8Array[]; frame_count: number };
  try {
    batch = type.decode(zstdDecompressSync(bytes, { maxOutputLength: batchBytesMax })) as unknown as typeof batch;
  } catch (cause) {
    throw new FrameError(`not a batch: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  const { frames, frame_count } = batch;
  if (frames.length === 0 || frames.length !== frame_count)
    throw new FrameError(`not a batch: it has ${frames.length} frames and says ${frame_count}`);
  if (frames.length > batchFramesMax) throw new FrameError(`the batch has more than ${batchFramesMax} frames`);
  return frames;
}
