// A file system that hangs as a dead NFS server's does: mounted for real (FUSE), and nobody answers. It answers from the
// moment that this program gets SIGUSR2. Started in a mount namespace of its own, so that only what is tested meets it:
//   unshare --mount --propagation private node hanging_filesystem.ts FOLDER
import { spawnSync } from 'node:child_process';
import { openSync, read, writeSync } from 'node:fs';

/** Of the kernel's FUSE protocol: https://docs.kernel.org/filesystems/fuse.html and include/uapi/linux/fuse.h */
const operation = { forget: 2, statfs: 17, init: 26, interrupt: 36, batchForget: 42 } as const;
const protocol = { major: 7, minor: 31 } as const;
const requestHeaderBytes = 40;
const answerHeaderBytes = 16;
const notImplemented = -38;
const requestBytesMax = 128 * 1024 + 4096;

/** What it says of itself, once it answers. */
export const answers = {
  blocks: 1000,
  free: 400,
  available: 300,
  files: 100,
  filesFree: 50,
  blockBytes: 4096,
} as const;

const folder = process.argv[2];
if (import.meta.main && folder !== undefined) hang(folder);

function hang(folder: string): void {
  const device = openSync('/dev/fuse', 'r+');
  const options = 'fd=3,rootmode=40000,user_id=0,group_id=0,allow_other';
  const mounted = spawnSync('mount', ['-i', '-t', 'fuse', '-o', options, 'hanging', folder], {
    stdio: ['ignore', 'inherit', 'inherit', device],
  });
  if (mounted.status !== 0) throw new Error(`The hanging file system could not be mounted at ${folder}.`);
  process.once('SIGUSR2', () => serve(device));
  console.log('mounted');
  // Until it is told to answer nothing else would keep it alive.
  setInterval(() => {}, 60_000);
}

function serve(device: number): void {
  const request = Buffer.alloc(requestBytesMax);
  read(device, request, 0, request.length, null, (error) => {
    if (error) throw error;
    answer(device, request.readUInt32LE(4), request.readBigUInt64LE(8));
    serve(device);
  });
}

function answer(device: number, asked: number, id: bigint): void {
  if (asked === operation.forget || asked === operation.batchForget || asked === operation.interrupt) return;
  const body = asked === operation.init ? initialization() : asked === operation.statfs ? statistics() : undefined;
  const message = Buffer.alloc(answerHeaderBytes + (body?.length ?? 0));
  message.writeUInt32LE(message.length, 0);
  message.writeInt32LE(body ? 0 : notImplemented, 4);
  message.writeBigUInt64LE(id, 8);
  body?.copy(message, answerHeaderBytes);
  writeSync(device, message);
}

/** struct fuse_init_out */
function initialization(): Buffer {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(protocol.major, 0);
  body.writeUInt32LE(protocol.minor, 4);
  body.writeUInt32LE(requestBytesMax - requestHeaderBytes - 4096, 20);
  return body;
}

/** struct fuse_statfs_out */
function statistics(): Buffer {
  const body = Buffer.alloc(80);
  const { blocks, free, available, files, filesFree, blockBytes } = answers;
  for (const [index, count] of [blocks, free, available, files, filesFree].entries())
    body.writeBigUInt64LE(BigInt(count), index * 8);
  body.writeUInt32LE(blockBytes, 40);
  body.writeUInt32LE(255, 44);
  body.writeUInt32LE(blockBytes, 48);
  return body;
}
