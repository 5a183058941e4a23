// The only socket. Whoever wants live data subscribes; equal subscriptions are one on the wire, counted here.
import type { Host, LiveHosts, LiveMessage, LiveRequest, LiveRows, Problem } from '@fleetreel/proto/http';

export type { Host, LiveHosts, LiveRows };

/** What to watch: fields none means all, hosts none means all. */
export type Watch = { table: string; fields?: readonly string[]; hosts?: readonly string[] };

export type Listener<T> = { message: (message: T) => void; problem?: (problem: Problem) => void };

type Subscription = { id: string; request: LiveRequest; listeners: Set<Listener<never>> };

/** First and longest pause before connecting again, milliseconds; the pause doubles and is shortened at random. */
const pauseFirst = 500;
const pauseLongest = 20_000;
/** The socket is closed this long after its last subscription, milliseconds: pages change in between. */
const linger = 3_000;
/** Why a connection is closed whose session has ended. */
const notSignedIn = 'not_signed_in';
/** A timer that is this late, milliseconds, means that the machine slept: what was connected is not any more. */
const sleptAfter = 15_000;

export class Live {
  /** `connecting` until the first connection, then `open` or `lost`. */
  state = $state<'connecting' | 'open' | 'lost'>('connecting');
  /** Since when there is no connection, milliseconds since 1970; null while there is one. */
  lostSince = $state<number | null>(null);

  readonly #url: () => string;
  readonly #refused: () => void;
  readonly #subscriptions = new Map<string, Subscription>();
  #socket: WebSocket | null = null;
  #ids = 0;
  #failures = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #closing: ReturnType<typeof setTimeout> | undefined;

  /** @param refused is called when a connection ended in a way that may mean: not signed in */
  constructor({ url = liveUrl, refused = () => {} }: { url?: () => string; refused?: () => void } = {}) {
    this.#url = url;
    this.#refused = refused;
  }

  /** Listens to rows of a table until the returned function is called. */
  watch(watch: Watch, listener: Listener<LiveRows>): () => void {
    const { table } = watch;
    const fields = [...(watch.fields ?? [])].sort();
    const hosts = [...(watch.hosts ?? [])].sort();
    return this.#subscribe(`${table}|${fields}|${hosts}`, listener, (id) => ({
      type: 'subscribe',
      id,
      table,
      ...(fields.length > 0 ? { fields } : {}),
      ...(hosts.length > 0 ? { hosts } : {}),
    }));
  }

  /** Listens to the list of hosts until the returned function is called. */
  watchHosts(listener: Listener<LiveHosts>): () => void {
    return this.#subscribe('hosts', listener, (id) => ({ type: 'subscribe_hosts', id }));
  }

  /** Notices that the network or the machine is back, until the returned function is called. */
  guard(): () => void {
    const wake = () => {
      if (this.#retry !== undefined && document.visibilityState === 'visible') this.#connect();
    };
    let last = Date.now();
    const timer = setInterval(() => {
      const late = Date.now() - last > sleptAfter;
      last = Date.now();
      // A hidden tab's timers are slowed down on purpose: only a visible one tells that the machine slept.
      if (late && document.visibilityState === 'visible' && this.#socket?.readyState === WebSocket.OPEN)
        this.#socket.close();
    }, 2_000);
    window.addEventListener('online', wake);
    document.addEventListener('visibilitychange', wake);
    return () => {
      clearInterval(timer);
      window.removeEventListener('online', wake);
      document.removeEventListener('visibilitychange', wake);
    };
  }

  /** Ends the connection for good. */
  close(): void {
    clearTimeout(this.#retry);
    clearTimeout(this.#closing);
    this.#retry = undefined;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #subscribe<T>(key: string, listener: Listener<T>, request: (id: string) => LiveRequest): () => void {
    clearTimeout(this.#closing);
    let subscription = this.#subscriptions.get(key);
    if (!subscription) {
      const id = `${++this.#ids}`;
      subscription = { id, request: request(id), listeners: new Set() };
      this.#subscriptions.set(key, subscription);
      this.#send(subscription.request);
    }
    subscription.listeners.add(listener as Listener<never>);
    if (!this.#socket && this.#retry === undefined) this.#connect();
    return () => {
      const { id, listeners } = subscription;
      listeners.delete(listener as Listener<never>);
      if (listeners.size > 0 || this.#subscriptions.get(key) !== subscription) return;
      this.#subscriptions.delete(key);
      this.#send({ type: 'unsubscribe', id });
      if (this.#subscriptions.size === 0) this.#closing = setTimeout(() => this.close(), linger);
    };
  }

  #send(request: LiveRequest): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(request));
  }

  #connect(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    const socket = new WebSocket(this.#url());
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.#failures = 0;
      this.state = 'open';
      this.lostSince = null;
      for (const { request } of this.#subscriptions.values()) this.#send(request);
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data as string) as LiveMessage);
    // An error is always followed by a close.
    socket.onclose = ({ reason }) => {
      if (this.#socket !== socket) return;
      // Why a connection was refused from the beginning is not told to a page.
      if (!opened || reason === notSignedIn) this.#refused();
      this.#socket = null;
      this.state = 'lost';
      this.lostSince ??= Date.now();
      const pause = Math.min(pauseLongest, pauseFirst * 2 ** this.#failures++);
      this.#retry = setTimeout(() => this.#connect(), pause * (0.5 + Math.random() / 2));
    };
  }

  #receive(message: LiveMessage): void {
    for (const { id, listeners } of this.#subscriptions.values()) {
      if (id !== message.id) continue;
      for (const listener of listeners)
        if (message.type === 'error') listener.problem?.(message.problem);
        else listener.message(message as never);
    }
  }
}

const liveUrl = () => `${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${location.host}/api/v1/live`;
