import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, constants } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Child } from '@fleetreel/deploy/local/child';
import { output, removeFolder, requireForEngine, rootFileSystem } from './container_image.ts';

const image = 'docker.io/fleetreel/box:1';

/**
 * A containerd of its own that serves Kubernetes' interface, with socket, data and state in one folder, which is removed with
 * it. Its pods have the host's network. There is no kubelet: what one asks of it is asked by `runPod`.
 */
export class Containerd implements AsyncDisposable {
  readonly name = 'containerd';
  readonly socket: string;
  readonly #folder: string;
  readonly #pods: string[] = [];
  #child: Child | undefined;

  constructor(folder: string) {
    this.#folder = folder;
    this.socket = join(folder, 'containerd.sock');
  }

  async start(): Promise<void> {
    const folder = this.#folder;
    const quoted = (name: string): string => JSON.stringify(join(folder, name));
    const config = `version = 2
root = ${quoted('root')}
state = ${quoted('state')}
[grpc]
  address = ${quoted('containerd.sock')}
[plugins."io.containerd.internal.v1.opt"]
  path = ${quoted('opt')}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${image}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`;
    const file = join(folder, 'config.toml');
    writeFileSync(file, config);
    this.#child = await Child.start({ name: 'containerd', command: 'containerd', args: ['--config', file] });
    await this.#child.untilReady(
      () =>
        this.#ask('Version', empty).then(
          () => true,
          () => false,
        ),
      60_000,
    );
  }

  /** Ends it as a crash would; its containers go on. */
  async kill(): Promise<void> {
    await this.#child?.kill();
  }

  /** Makes the archive of an image from a root file system, and imports it. */
  async import(rootArchive: string): Promise<void> {
    const folder = join(this.#folder, 'image');
    mkdirSync(join(folder, 'blobs', 'sha256'), { recursive: true });
    const blob = (mediaType: string, bytes: Buffer) => {
      const digest = createHash('sha256').update(bytes).digest('hex');
      writeFileSync(join(folder, 'blobs', 'sha256', digest), bytes);
      return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
    };
    const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
    const kind = 'application/vnd.oci.image';
    const layer = blob(`${kind}.layer.v1.tar`, readFileSync(rootArchive));
    const config = { Cmd: ['sleep', '100000'], Env: ['PATH=/bin'] };
    const rootfs = { type: 'layers', diff_ids: [layer.digest] };
    const settings = blob(`${kind}.config.v1+json`, json({ architecture: 'amd64', os: 'linux', config, rootfs }));
    const manifest = json({
      schemaVersion: 2,
      mediaType: `${kind}.manifest.v1+json`,
      config: settings,
      layers: [layer],
    });
    const annotations = { 'io.containerd.image.name': image };
    const manifests = [{ ...blob(`${kind}.manifest.v1+json`, manifest), annotations }];
    writeFileSync(join(folder, 'index.json'), json({ schemaVersion: 2, manifests }));
    writeFileSync(join(folder, 'oci-layout'), json({ imageLayoutVersion: '1.0.0' }));
    const archive = join(this.#folder, 'image-oci.tar');
    await output('tar', ['-C', folder, '-cf', archive, '.']);
    const options = ['images', 'import', '--all-platforms', '--snapshotter', 'native', archive];
    await output('ctr', ['--address', this.socket, '--namespace', 'k8s.io', ...options]);
  }

  /** A pod with the host's network; returns its id. */
  async runPod(name: string, labels: Readonly<Record<string, string>>): Promise<string> {
    const answer = await this.#ask('RunPodSandbox', part(1, this.#podOf(name, labels)));
    const id = firstText(answer);
    this.#pods.push(id);
    return id;
  }

  /** A container in a pod, started; returns its id. */
  async runContainer(
    pod: { id: string; name: string; labels: Readonly<Record<string, string>> },
    name: string,
    labels: Readonly<Record<string, string>>,
    ...command: string[]
  ): Promise<string> {
    // LinuxContainerResources: cpu_period 1, cpu_quota 2, memory_limit_in_bytes 4.
    const resources = Buffer.concat([number(1, 100_000), number(2, 50_000), number(4, 64 * 1024 * 1024)]);
    // ContainerConfig: metadata 1, image 2, command 3, labels 9, linux 15.
    const config = Buffer.concat([
      part(1, part(1, name)),
      part(2, part(1, image)),
      ...command.map((word) => part(3, word)),
      ...pairs(9, labels),
      part(15, part(1, resources)),
    ]);
    // CreateContainerRequest: pod_sandbox_id 1, config 2, sandbox_config 3.
    const create = Buffer.concat([part(1, pod.id), part(2, config), part(3, this.#podOf(pod.name, pod.labels))]);
    const id = firstText(await this.#ask('CreateContainer', create));
    await this.#ask('StartContainer', part(1, id));
    return id;
  }

  async stopContainer(id: string): Promise<void> {
    await this.#ask('StopContainer', part(1, id));
  }

  /** Of one that has ended, which containerd tells before it has noted it: until then it asks to stop it first, or tries itself. */
  async removeContainer(id: string): Promise<void> {
    const noted = performance.now() + 10_000;
    for (;;) {
      try {
        await this.#ask('RemoveContainer', part(1, id));
        return;
      } catch (error) {
        if (!/is still running|ttrpc: closed/.test(String(error)) || performance.now() > noted) throw error;
        await pause(50);
      }
    }
  }

  /** PodSandboxConfig: metadata 1 (name 1, uid 2, namespace 3), labels 6, linux 8 (security_context 2, namespaces 1, network 1). */
  #podOf(name: string, labels: Readonly<Record<string, string>>): Buffer {
    const metadata = Buffer.concat([part(1, name), part(2, `uid-of-${name}`), part(3, 'shop')]);
    return Buffer.concat([part(1, metadata), ...pairs(6, labels), part(8, part(2, part(1, number(1, 2))))]);
  }

  async #ask(method: string, message: Buffer): Promise<Buffer> {
    const session = connect('http://localhost', { createConnection: () => connectSocket(this.socket) });
    const failed = Promise.withResolvers<never>();
    session.on('error', failed.reject);
    const limit = setTimeout(() => failed.reject(new Error(`${method} takes too long.`)), 60_000);
    try {
      const stream = session.request({
        [constants.HTTP2_HEADER_METHOD]: 'POST',
        [constants.HTTP2_HEADER_PATH]: `/runtime.v1.RuntimeService/${method}`,
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      let status = '';
      let said = '';
      const ended = (headers: Record<string, unknown>): void => {
        if (headers['grpc-status'] !== undefined) status = String(headers['grpc-status'] as string);
        if (headers['grpc-message'] !== undefined) said = String(headers['grpc-message'] as string);
      };
      stream.on('response', ended);
      stream.on('trailers', ended);
      const head = Buffer.alloc(5);
      head.writeUInt32BE(message.length, 1);
      stream.end(Buffer.concat([head, message]));
      const answer = await Promise.race([stream.toArray() as Promise<Buffer[]>, failed.promise]);
      if (status !== '0') throw new Error(`${method}: ${status} ${said}`);
      return Buffer.concat(answer).subarray(5);
    } finally {
      clearTimeout(limit);
      session.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#child?.ended) await this.start();
      for (const pod of this.#pods) {
        await this.#ask('StopPodSandbox', part(1, pod));
        await this.#ask('RemovePodSandbox', part(1, pod));
      }
    } finally {
      await this.#child?.stop(20_000);
      await removeFolder(this.#folder);
    }
  }
}

// The wire form of Protocol Buffers, as far as it is written here.

const empty = Buffer.alloc(0);

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Buffer.from([...bytes, rest]);
}

const number = (field: number, value: number): Buffer => Buffer.concat([varint(field * 8), varint(value)]);

function part(field: number, value: Buffer | string): Buffer {
  const bytes = Buffer.from(value as string);
  return Buffer.concat([varint(field * 8 + 2), varint(bytes.length), bytes]);
}

const pairs = (field: number, entries: Readonly<Record<string, string>>): Buffer[] =>
  Object.entries(entries).map(([key, value]) => part(field, Buffer.concat([part(1, key), part(2, value)])));

/** The first field of an answer, which is an id. */
const firstText = (answer: Buffer): string => answer.subarray(2, 2 + (answer[1] ?? 0)).toString();

/** @throws Error that says what is missing on this machine */
export async function startContainerd(): Promise<Containerd> {
  requireForEngine('containerd', ['containerd', 'ctr', 'runc', 'tar']);
  const folder = mkdtempSync(join(tmpdir(), 'fr-containerd-'));
  const engine = new Containerd(folder);
  try {
    await engine.start();
    await engine.import(await rootFileSystem(folder));
  } catch (error) {
    await engine[Symbol.asyncDispose]().catch(() => undefined);
    throw error;
  }
  return engine;
}
