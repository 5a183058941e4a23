// A network namespace at the other end of a cable (a veth pair): a machine of its own as far as the network goes.
import { execFileSync } from 'node:child_process';

type Ends = { here: string; there: string };

export class Cable implements Disposable {
  readonly namespace = `fleetreel-${process.pid}`;
  readonly address: Ends;
  /** Names of the interfaces. */
  readonly interface: Ends;

  /** Named and numbered by this process, so that two runs on one machine don't meet. */
  constructor(here = `fr${process.pid}a`) {
    const number = process.pid % 65_536;
    const address = (end: number) => `10.${200 + (process.pid % 50)}.${number >> 8}.${(number & 0xfc) + end}`;
    this.address = { here: address(1), there: address(2) };
    this.interface = { here, there: `fr${process.pid}b` };
    const { there } = this.interface;
    ip('netns', 'add', this.namespace);
    ip('link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', this.namespace);
    ip('address', 'add', `${this.address.here}/30`, 'dev', here);
    ip('link', 'set', here, 'up');
    ip('-n', this.namespace, 'address', 'add', `${this.address.there}/30`, 'dev', there);
    ip('-n', this.namespace, 'link', 'set', there, 'up');
  }

  /** What starts a program at the other end. */
  get within(): string[] {
    return ['ip', 'netns', 'exec', this.namespace];
  }

  /** The cable goes with the namespace that one end is in. */
  [Symbol.dispose](): void {
    ip('netns', 'delete', this.namespace);
  }
}

const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
