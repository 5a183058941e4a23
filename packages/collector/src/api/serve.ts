// Both faces, listening from the start: what can't be asked yet is answered so, and /healthz and /readyz always answer.
import { ApiError } from '@fleetreel/proto/errors';
import { SettingsError } from '@fleetreel/proto/settings';
import type { Access } from '#access/access.ts';
import { type CertificateFiles, ServerCertificate } from '#api/certificate.ts';
import { type Face, FaceMetrics, type FaceParts, type Rooms } from '#api/faces.ts';
import { startGrpc } from '#api/grpc/server.ts';
import { startHttp } from '#api/http/server.ts';
import { LiveConnections } from '#live/connections.ts';
import type { Telemetry } from '#telemetry.ts';

/** The settings of the faces, as `config.ts` has them. */
export type FaceSettings = {
  http: { host: string; port: number; allowed_hosts?: readonly string[]; trusted_proxies?: readonly string[] };
  grpc: { host: string; port: number };
  tls?: CertificateFiles;
  access?: { open_metrics: boolean };
  console?: string;
};

/** The faces of one collector. */
export class Faces {
  readonly http: Face;
  readonly grpc: Face;
  readonly access: Access;
  readonly #state: { rooms: Rooms | undefined };
  readonly #certificate: ServerCertificate | undefined;

  private constructor(
    http: Face,
    grpc: Face,
    access: Access,
    state: { rooms: Rooms | undefined },
    certificate: ServerCertificate | undefined,
  ) {
    this.http = http;
    this.grpc = grpc;
    this.access = access;
    this.#state = state;
    this.#certificate = certificate;
  }

  /** Listens on both ports. @throws SettingsError where one can't be had */
  static async start(settings: FaceSettings, access: Access, telemetry: Telemetry): Promise<Faces> {
    const { http, grpc, console } = settings;
    const { tls: files = { certificate: '', key: '' } } = settings;
    const tls = files.certificate === '' ? undefined : new ServerCertificate(files, telemetry);
    const trustedProxies = http.trusted_proxies ?? [];
    const state: { rooms: Rooms | undefined } = { rooms: undefined };
    const metrics = new FaceMetrics(telemetry, () => state.rooms?.hub.size ?? 0);
    const parts: FaceParts = {
      rooms() {
        if (state.rooms) return state.rooms;
        const missing = telemetry.missing().find(({ dependency }) => dependency === 'nats');
        throw new ApiError('log_unavailable', { reason: missing?.reason ?? 'the collector is starting' });
      },
      telemetry,
      metrics,
      live: new LiveConnections(() => metrics.readerRefused()),
      access,
    };
    const httpFace = await listening(
      'http',
      http,
      startHttp(parts, {
        ...http,
        allowedHosts: http.allowed_hosts ?? [],
        trustedProxies,
        openMetrics: settings.access?.open_metrics ?? false,
        tls,
        console,
      }),
    );
    try {
      return new Faces(
        httpFace,
        await listening('grpc', grpc, startGrpc(parts, { ...grpc, trustedProxies, tls })),
        access,
        state,
        tls,
      );
    } catch (cause) {
      tls?.close();
      await httpFace.close();
      throw cause;
    }
  }

  /** From now on questions are answered. */
  open(rooms: Rooms): void {
    this.#state.rooms = rooms;
  }

  async close(): Promise<void> {
    this.#certificate?.close();
    await Promise.all([this.http.close(), this.grpc.close()]);
  }
}

/** A face, or a sentence about why its address can't be had. */
async function listening(
  name: 'http' | 'grpc',
  { host, port }: { host: string; port: number },
  face: Promise<Face>,
): Promise<Face> {
  try {
    return await face;
  } catch (cause) {
    const why = { EADDRINUSE: 'is in use', EACCES: 'is not permitted', EADDRNOTAVAIL: 'is not of this machine' };
    const text = cause instanceof Error ? cause.message : String(cause);
    const known = Object.entries(why).find(([code]) => text.includes(code));
    if (known === undefined) throw cause;
    throw new SettingsError(
      `${name}.port: ${port} on ${host} ${known[1]}: free it, or give another with --${name}-port.`,
      { cause },
    );
  }
}
