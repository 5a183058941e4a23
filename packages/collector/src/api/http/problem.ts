// Every error leaves as a problem document.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { App } from '#api/http/app.ts';
import { requestArrivalMilliseconds } from '#limits.ts';

/** Body of a request at most, bytes: no route takes more than a few names. */
export const bodyBytesMax = 64 * 1024;
/** Request line and headers at most, bytes: Node's own default. */
const headerBytesMax = 16 * 1024;
const problemType = 'application/problem+json; charset=utf-8';

/** Answers with the problem of an error; one that is not of the catalogue is logged and becomes "internal". */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const known = catalogued(error, request);
  if (known.code === 'internal') request.log.error({ err: error, url: request.url }, 'a request failed');
  if (known.retryAfter !== undefined) void reply.header('retry-after', String(known.retryAfter));
  // Not Basic: a browser would ask for a password by itself.
  if (known.httpStatus === 401) void reply.header('www-authenticate', 'Bearer realm="fleetreel"');
  return reply.code(known.httpStatus).header('content-type', problemType).send(JSON.stringify(known.problem));
}

function catalogued(error: unknown, request: FastifyRequest): ApiError {
  if (error instanceof ApiError) return error;
  const { code, statusCode, message } = error as FastifyError;
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new ApiError('payload_too_large', { most: request.routeOptions.bodyLimit ?? bodyBytesMax });
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new ApiError('unsupported_media_type', { value: clip(request.headers['content-type'] ?? '') });
  if (statusCode && statusCode >= 400 && statusCode < 500) return badRequest(message);
  return new ApiError('internal', { id: request.id }, { cause: error });
}

export const badRequest = (message: string): ApiError =>
  new ApiError('bad_request', { reason: clip(message.replace(/\.$/, '')) });

/** Answers what no route takes: a method that the path does not have, or nothing at all. */
export function notFound(app: App): (request: FastifyRequest, reply: FastifyReply) => FastifyReply {
  const routes: { method: string; pattern: RegExp; isNamed: boolean }[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    if (url.includes('*')) return;
    const pattern = new RegExp(`^${url.replace(/[.]/g, '\\.').replace(/:\w+/g, '[^/]+')}/?$`);
    for (const each of [method].flat()) routes.push({ method: each, pattern, isNamed: !url.includes(':') });
  });
  return (request, reply) => {
    const { method, url } = request;
    const [path = ''] = url.split('?');
    const fitting = routes.filter((route) => route.pattern.test(path));
    // A path that is one by its own name is not told of as if it were a parameter of another.
    const named = fitting.filter((route) => route.isNamed);
    const allowed = (named.length > 0 ? named : fitting).map((route) => route.method);
    if (allowed.length === 0 || allowed.includes(method))
      return sendProblem(new ApiError('not_found', { value: clip(path) }), request, reply);
    const methods = [...new Set(allowed)].join(', ');
    const error = new ApiError('method_not_allowed', { value: clip(path), method, allowed: methods });
    return sendProblem(error, request, reply.header('allow', methods));
  };
}

function refusalOf({ code, message }: NodeJS.ErrnoException): ApiError {
  if (code === 'HPE_HEADER_OVERFLOW') return new ApiError('header_too_large', { most: headerBytesMax });
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new ApiError('request_too_slow', { seconds: requestArrivalMilliseconds / 1000 });
  return badRequest(message);
}

/** Answers a request that did not arrive, or could not even be parsed, on its raw connection. */
export function refuseRaw(error: NodeJS.ErrnoException, socket: import('node:net').Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const known = refusalOf(error);
  const body = JSON.stringify(known.problem);
  socket.end(
    `HTTP/1.1 ${known.httpStatus} ${known.problem.title}\r\ncontent-type: ${problemType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}
