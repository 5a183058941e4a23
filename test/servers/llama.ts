// The real server of llama.cpp, from the Python package that carries it, with a model of random numbers.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { cacheFolder, thisMachine } from '@fleetreel/deploy/local/obtain';
import { freePort } from '@fleetreel/deploy/local/port';

const version = '2026.10.11549';

/** Starts the server and waits until it is ended; its own process carries the name that llama.cpp gives it. */
const program = `
import sys, signal
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[2]
params.hostnames = ['127.0.0.1']
params.port = int(sys.argv[4])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 4, 1
params.endpoint_metrics = params.endpoint_slots = params.endpoint_props = True
params.chat_template, params.use_jinja, params.warmup = 'chatml', False, False
server = xllamacpp.Server(params)
signal.pause()
`;

export type LlamaServer = AsyncDisposable & {
  address: string;
  pid: number;
  /** Name of its model. */
  model: string;
  /** Ends it as a crash would. */
  kill(): Promise<unknown>;
};

/** A server of llama.cpp on loopback, with its metrics. Needs python3 with pip. */
export async function startLlama(): Promise<LlamaServer> {
  const library = obtain();
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-llama-'));
  const model = join(folder, 'random.gguf');
  writeFileSync(model, randomModel());
  const python = execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8' }).trim();
  const command = join(folder, 'llama-server');
  symlinkSync(python, command);
  const port = await freePort();
  const args = ['-c', program, library, model, '--port', String(port)];
  const child = await Child.start({ name: 'llama-server', command, args });
  const address = `127.0.0.1:${port}`;
  await child.untilReady(async (signal) => {
    const answer = await fetch(`http://${address}/health`, { signal }).catch(() => undefined);
    return answer?.ok ?? false;
  }, 60_000);
  return {
    address,
    pid: child.pid,
    model: 'random.gguf',
    kill: () => child.kill(),
    async [Symbol.asyncDispose]() {
      // Its thread does not listen to being asked.
      await child.kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The folder with the package, fetched once for all checkouts. */
function obtain(): string {
  const folder = join(cacheFolder(thisMachine()), `xllamacpp-${version}`);
  if (existsSync(folder)) return folder;
  const part = `${folder}.${process.pid}`;
  const flags = ['--quiet', '--no-deps', '--only-binary', ':all:', '--disable-pip-version-check', '--target', part];
  execFileSync('python3', ['-m', 'pip', 'install', ...flags, `xllamacpp==${version}`], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 300_000,
  });
  try {
    renameSync(part, folder);
  } catch {
    // Another process was quicker.
    rmSync(part, { recursive: true, force: true });
  }
  return folder;
}

const width = 32;
const hidden = 64;
const alignment = 32;

/**
 * A model of one layer that generates letters at random, 120 kB.
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
function randomModel(): Buffer {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const letters = Array.from('abcdefghijklmnopqrstuvwxyz\u2581');
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...letters];
  const [unknown, control, byte, normal] = [2, 3, 6, 1];
  const types = [unknown, control, control, ...bytes.map(() => byte), ...letters.map(() => normal)];
  const settings: [string, Buffer][] = [
    ['general.architecture', text('llama')],
    ['general.file_type', whole(0)],
    ['llama.context_length', whole(2048)],
    ['llama.embedding_length', whole(width)],
    ['llama.block_count', whole(1)],
    ['llama.feed_forward_length', whole(hidden)],
    ['llama.attention.head_count', whole(2)],
    ['llama.attention.layer_norm_rms_epsilon', real(1e-5)],
    ['tokenizer.ggml.model', text('llama')],
    ['tokenizer.ggml.tokens', list(8, tokens.map(string))],
    [
      'tokenizer.ggml.scores',
      list(
        6,
        tokens.map(() => float32(0)),
      ),
    ],
    ['tokenizer.ggml.token_type', list(5, types.map(uint32))],
    ['tokenizer.ggml.bos_token_id', whole(1)],
    ['tokenizer.ggml.eos_token_id', whole(2)],
    ['tokenizer.ggml.unknown_token_id', whole(0)],
  ];
  const tensors: [string, number[]][] = [
    ['token_embd.weight', [width, tokens.length]],
    ['output.weight', [width, tokens.length]],
    ['output_norm.weight', [width]],
    ['blk.0.attn_norm.weight', [width]],
    ['blk.0.ffn_norm.weight', [width]],
    ...['attn_q', 'attn_k', 'attn_v', 'attn_output'].map((name): [string, number[]] => [
      `blk.0.${name}.weight`,
      [width, width],
    ]),
    ['blk.0.ffn_gate.weight', [width, hidden]],
    ['blk.0.ffn_up.weight', [width, hidden]],
    ['blk.0.ffn_down.weight', [hidden, width]],
  ];
  const infos: Buffer[] = [];
  const data: Buffer[] = [];
  let offset = 0;
  for (const [name, sizes] of tensors) {
    infos.push(string(name), uint32(sizes.length), ...sizes.map(uint64), uint32(0), uint64(offset));
    // A norm that lets everything through; the rest is chance.
    const values = Float32Array.from({ length: sizes.reduce((product, size) => product * size, 1) }, () =>
      sizes.length === 1 ? 1 : Math.random() - 0.5,
    );
    const padded = Buffer.alloc(Math.ceil(values.byteLength / alignment) * alignment);
    padded.set(new Uint8Array(values.buffer));
    data.push(padded);
    offset += padded.length;
  }
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    uint32(3),
    uint64(tensors.length),
    uint64(settings.length),
    ...settings.flatMap(([key, value]) => [string(key), value]),
    ...infos,
  ]);
  return Buffer.concat([head, Buffer.alloc((alignment - (head.length % alignment)) % alignment), ...data]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function float32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

const string = (value: string): Buffer => Buffer.concat([uint64(Buffer.byteLength(value)), Buffer.from(value)]);
// Values with their type before them.
const whole = (value: number): Buffer => Buffer.concat([uint32(4), uint32(value)]);
const real = (value: number): Buffer => Buffer.concat([uint32(6), float32(value)]);
const text = (value: string): Buffer => Buffer.concat([uint32(8), string(value)]);
const list = (type: number, values: readonly Buffer[]): Buffer =>
  Buffer.concat([uint32(9), uint32(type), uint64(values.length), ...values]);
