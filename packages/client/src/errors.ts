// What may go wrong, as types. No error holds the key, nor anything that was sent with it.

/** What every error of this package is. */
export class FleetreelError extends Error {
  override name = 'FleetreelError';
  /** Stable name of what is wrong: the collector's for what it answered. */
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** The client was made with options that can't be. The only error that writing throws, and only when it is made. */
export class ConfigurationError extends FleetreelError {
  override name = 'ConfigurationError';

  constructor(message: string) {
    super('bad_configuration', message);
  }
}

/** A measure or an event that can't be: it was counted and left out. */
export class InvalidEntryError extends FleetreelError {
  override name = 'InvalidEntryError';

  constructor(message: string) {
    super('invalid_entry', message);
  }
}

/** Nobody answered, or not in time. */
export class ConnectionError extends FleetreelError {
  override name = 'ConnectionError';

  constructor(message: string) {
    super('connection', message);
  }
}

/** The collector answered that it won't. The message is the sentence of its problem document. */
export class RequestError extends FleetreelError {
  override name = 'RequestError';
  /** Of HTTP. */
  readonly status: number;
  /** The parameter at fault. */
  readonly parameter: string | undefined;
  /** Of many entries in one request, the one at fault, from 0. */
  readonly index: number | undefined;
  /** How long it wants to be left alone. */
  readonly retryAfterMilliseconds: number | undefined;

  constructor(
    status: number,
    code: string,
    message: string,
    more: Partial<Pick<RequestError, 'parameter' | 'index' | 'retryAfterMilliseconds'>> = {},
  ) {
    super(code, message);
    this.status = status;
    this.parameter = more.parameter;
    this.index = more.index;
    this.retryAfterMilliseconds = more.retryAfterMilliseconds;
  }
}
