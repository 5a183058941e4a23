// Every error leaves as a status with the sentence of the catalogue, and its code in the metadata.
import { ApiError } from '@fleetreel/proto/errors';
import { type handleUnaryCall, Metadata, type ServerUnaryCall, type ServiceError } from '@grpc/grpc-js';
import type { Identity } from '#access/identity.ts';
import type { FaceParts } from '#api/faces.ts';
import { addressOf, identityOf } from '#api/grpc/rights.ts';
import { systemClock } from '#clock.ts';

export function statusOf(error: unknown, method: string, { telemetry }: Pick<FaceParts, 'telemetry'>): ServiceError {
  const known =
    error instanceof ApiError ? error : new ApiError('internal', { id: `gRPC ${method}` }, { cause: error });
  if (known.code === 'internal') telemetry.log.error({ err: error, method }, 'a request failed');
  const metadata = new Metadata();
  metadata.set('fleetreel-code', known.code);
  // Names and values of the request may be in any script, metadata is ASCII.
  for (const name of ['parameter', 'nearest'] as const) {
    const value = known[name];
    if (value !== undefined) metadata.set(`fleetreel-${name}`, encodeURI(value));
  }
  if (known.index !== undefined) metadata.set('fleetreel-index', String(known.index));
  if (known.retryAfter !== undefined) metadata.set('retry-after', String(known.retryAfter));
  return Object.assign(new Error(known.message), { code: known.grpcStatus, details: known.message, metadata });
}

/** A method with one request and one answer. */
export const unary = <Q, A>(
  parts: FaceParts,
  method: string,
  answer: (question: Q, identity: Identity, address: string) => Promise<A>,
): handleUnaryCall<Q, A> => called(parts, method, (call) => answer(call.request, identityOf(call), addressOf(call)));

/** The same for a method that anybody may call: it hears from where. */
export const unaryPublic = <Q, A>(
  parts: FaceParts,
  method: string,
  answer: (question: Q, address: string) => Promise<A>,
): handleUnaryCall<Q, A> => called(parts, method, (call) => answer(call.request, addressOf(call)));

function called<Q, A>(
  parts: FaceParts,
  method: string,
  answer: (call: ServerUnaryCall<Q, A>) => Promise<A>,
): handleUnaryCall<Q, A> {
  return (call, callback) => {
    const began = systemClock.monotonic_ms();
    const done = (error: ServiceError | null, value: A | null) => {
      parts.metrics.request('grpc', method, error?.code ?? 0, (systemClock.monotonic_ms() - began) / 1000);
      callback(error, value);
    };
    void run();
    async function run(): Promise<void> {
      let value: A;
      try {
        value = await answer(call);
      } catch (error) {
        done(statusOf(error, method, parts), null);
        return;
      }
      done(null, value);
    }
  };
}
