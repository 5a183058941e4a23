// The one place where methods are held to what they ask of their caller.
import type { IncomingMessage } from 'node:http';
import proxies from '@fastify/proxy-addr';
import { ApiError } from '@fleetreel/proto/errors';
import {
  type Metadata,
  Server,
  ServerInterceptingCall,
  type ServerInterceptor,
  type ServerOptions,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { Credentials } from '#access/access.ts';
import type { Need } from '#access/identity.ts';
import type { FaceParts } from '#api/faces.ts';
import { addresses, identities, needs } from '#api/grpc/rights.ts';
import { statusOf } from '#api/grpc/status.ts';
import { requestArrivalMilliseconds } from '#limits.ts';

/** A server that refuses whoever may not. */
export class ProtectedServer extends Server {
  /** What its methods ask, by their paths. */
  readonly needs = new Map<string, Need>();

  constructor(parts: FaceParts, trustedProxies: readonly string[], options: ServerOptions) {
    super({ ...options, interceptors: [interceptor(parts, trustedProxies)] });
  }

  override addService(service: ServiceDefinition, implementation: UntypedServiceImplementation): void {
    for (const { path } of Object.values(service)) {
      const need = Object.hasOwn(needs, path) ? needs[path] : undefined;
      if (need === undefined) throw new Error(`The method ${path} does not say whom it is for.`);
      this.needs.set(path, need);
    }
    super.addService(service, implementation);
  }
}

function interceptor(parts: FaceParts, trustedProxies: readonly string[]): ServerInterceptor {
  const isTrusted: Trust = trustedProxies.length > 0 ? proxies.compile([...trustedProxies]) : () => false;
  return ({ path, requestStream }, call) => {
    const need = Object.hasOwn(needs, path) ? needs[path] : undefined;
    const refuse = (error: unknown) => call.sendStatus(statusOf(error, path.replace('/fleetreel.v1.', ''), parts));
    const identify = (metadata: Metadata) => {
      if (need === undefined) throw new Error(`The method ${path} does not say whom it is for.`);
      if (need !== 'public') identities.set(metadata, parts.access.identify(credentialsOf(metadata), need));
    };
    let asked: Metadata;
    let late: NodeJS.Timeout | undefined;
    return new ServerInterceptingCall(call, {
      start(next) {
        next({
          onReceiveMetadata(metadata, proceed) {
            asked = metadata;
            try {
              addresses.set(metadata, addressOf(call, metadata, isTrusted));
              identify(metadata);
            } catch (error) {
              refuse(error);
              return;
            }
            const seconds = requestArrivalMilliseconds / 1000;
            const refuseLate = () => refuse(new ApiError('request_too_slow', { seconds }));
            if (!requestStream) late = setTimeout(refuseLate, requestArrivalMilliseconds).unref();
            proceed(metadata);
          },
          // Handlers of one request run from here on: it comes as slowly as one likes, and the right may be gone by then.
          onReceiveHalfClose(proceed) {
            clearTimeout(late);
            try {
              identify(asked);
            } catch (error) {
              refuse(error);
              return;
            }
            proceed();
          },
          onCancel: () => clearTimeout(late),
        });
      },
    });
  };
}

type Trust = ReturnType<typeof proxies.compile>;

/** From where a call comes, without the port: what a proxy says of it where that is trusted, as of a request over HTTP. */
function addressOf(call: { getPeer(): string }, metadata: Metadata, isTrusted: Trust): string {
  const remoteAddress = call
    .getPeer()
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '');
  const headers = { 'x-forwarded-for': metadata.get('x-forwarded-for').join(',') };
  return proxies({ socket: { remoteAddress }, headers } as unknown as IncomingMessage, isTrusted);
}

/** What a call brings to say who asks. */
const credentialsOf = (metadata: Metadata): Credentials => ({
  authorization: text(metadata, 'authorization'),
  apiKey: text(metadata, 'x-api-key'),
  address: addresses.get(metadata) ?? '',
});

const text = (metadata: Metadata, name: string): string | undefined => metadata.get(name)[0]?.toString();
