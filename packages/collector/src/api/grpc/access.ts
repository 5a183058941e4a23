// The one place where methods are held to what they ask of their caller.
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
import { identities, needs } from '#api/grpc/rights.ts';
import { addressOf, statusOf } from '#api/grpc/status.ts';

/** A server that refuses whoever may not. */
export class ProtectedServer extends Server {
  /** What its methods ask, by their paths. */
  readonly needs = new Map<string, Need>();

  constructor(parts: FaceParts, options: ServerOptions) {
    super({ ...options, interceptors: [interceptor(parts)] });
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

function interceptor(parts: FaceParts): ServerInterceptor {
  return ({ path }, call) => {
    const need = Object.hasOwn(needs, path) ? needs[path] : undefined;
    if (need === 'public') return new ServerInterceptingCall(call);
    return new ServerInterceptingCall(call, {
      start(next) {
        next({
          onReceiveMetadata(metadata, proceed) {
            try {
              if (need === undefined) throw new Error(`The method ${path} does not say whom it is for.`);
              identities.set(metadata, parts.access.identify(credentialsOf(metadata, call), need));
            } catch (error) {
              call.sendStatus(statusOf(error, path.replace('/fleetreel.v1.', ''), parts));
              return;
            }
            proceed(metadata);
          },
        });
      },
    });
  };
}

/** What a call brings to say who asks. */
const credentialsOf = (metadata: Metadata, call: { getPeer(): string }): Credentials => ({
  authorization: text(metadata, 'authorization'),
  apiKey: text(metadata, 'x-api-key'),
  address: addressOf(call),
});

const text = (metadata: Metadata, name: string): string | undefined => metadata.get(name)[0]?.toString();
