// The certificate of both faces. Renewed files are taken as they come: a certificate lasts weeks, a collector years.
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { SettingsError } from '@fleetreel/proto/settings';
import type { experimental } from '@grpc/grpc-js';
import { systemClock } from '#clock.ts';
import { certificateMilliseconds } from '#limits.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Files, PEM: the certificate with its chain, and its private key. */
export type CertificateFiles = { certificate: string; key: string };

type Pair = experimental.IdentityCertificateUpdate;
type Listener = (pair: Pair) => void;

/** As gRPC wants to be told of renewed certificates; HTTP listens in the same way. */
export class ServerCertificate implements experimental.CertificateProvider {
  readonly #files: CertificateFiles;
  readonly #telemetry: Pick<Telemetry, 'certificate' | 'certificateRefused'>;
  readonly #listeners = new Set<Listener>();
  readonly #timer: NodeJS.Timeout;
  #pair: Pair;
  /** Why the files can't be taken, and how often that was seen in a row. */
  #refused = { reason: '', times: 0 };

  /** @throws SettingsError where the files are no certificate with its key */
  constructor(files: CertificateFiles, telemetry: Pick<Telemetry, 'certificate' | 'certificateRefused'>) {
    this.#files = files;
    this.#telemetry = telemetry;
    this.#pair = { certificate: read(files, 'certificate'), privateKey: read(files, 'key') };
    this.#tell(validUntil(files, this.#pair));
    this.#timer = setInterval(() => void this.#look(), certificateMilliseconds).unref();
  }

  get pair(): Pair {
    return this.#pair;
  }

  addIdentityCertificateListener(listener: Listener): void {
    this.#listeners.add(listener);
    // Not at once: gRPC is not ready for it before this call has ended.
    process.nextTick(() => listener(this.#pair));
  }

  removeIdentityCertificateListener(listener: Listener): void {
    this.#listeners.delete(listener);
  }

  /** Callers are not asked for certificates. */
  addCaCertificateListener(): void {}
  removeCaCertificateListener(): void {}

  close(): void {
    clearInterval(this.#timer);
  }

  #tell(until: Date): void {
    this.#telemetry.certificate(until, until.getTime() <= systemClock.now_us() / 1000);
  }

  /** Takes what is in the files, if it is another certificate with its key; else the one before stays. */
  async #look(): Promise<void> {
    const { certificate, key } = this.#files;
    try {
      const pair = { certificate: await readFile(certificate), privateKey: await readFile(key) };
      if (pair.certificate.equals(this.#pair.certificate) && pair.privateKey.equals(this.#pair.privateKey)) return;
      const until = validUntil(this.#files, pair);
      this.#pair = pair;
      this.#refused = { reason: '', times: 0 };
      for (const listener of this.#listeners) listener(pair);
      this.#tell(until);
    } catch (cause) {
      const reason = sentence(cause);
      this.#refused = { reason, times: this.#refused.reason === reason ? this.#refused.times + 1 : 1 };
      // The two files are seldom written at once: what is wrong with them is worth a word when it lasts.
      if (this.#refused.times === 2) this.#telemetry.certificateRefused(reason);
    }
  }
}

function read(files: CertificateFiles, name: keyof CertificateFiles): Buffer {
  try {
    return readFileSync(files[name]);
  } catch (cause) {
    throw new SettingsError(`tls.${name}: the file ${files[name]} can't be read (${sentence(cause)}).`, { cause });
  }
}

/** @throws SettingsError where they don't belong together */
function validUntil(files: CertificateFiles, { certificate, privateKey }: Pair): Date {
  try {
    createSecureContext({ cert: certificate, key: privateKey });
    return new X509Certificate(certificate).validToDate;
  } catch (cause) {
    throw new SettingsError(
      `tls: ${files.certificate} and ${files.key} are no certificate with its key (${sentence(cause)}).`,
      { cause },
    );
  }
}
