// A block device that nobody else uses: its traffic is known to the byte.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const control = '/sys/class/zram-control';

/** A compressed RAM disk with an ext4 file system on it. */
export class RamDisk {
  /** As in /proc/diskstats: zram1. */
  readonly device: string;
  /** Where it is mounted. */
  readonly folder: string;
  readonly #number: string;

  private constructor(number: string, folder: string) {
    this.#number = number;
    this.device = `zram${number}`;
    this.folder = folder;
  }

  static make(size: number): RamDisk {
    // Reading makes a new device and tells its number.
    const number = readFileSync(join(control, 'hot_add'), 'utf8').trim();
    const disk = new RamDisk(number, mkdtempSync(join(tmpdir(), 'fleetreel-disk-')));
    writeFileSync(`/sys/block/${disk.device}/disksize`, String(size));
    // Everything is written now: left to itself, ext4 goes on writing its tables for minutes.
    const atOnce = 'lazy_itable_init=0,lazy_journal_init=0';
    execFileSync('mkfs.ext4', ['-q', '-E', atOnce, `/dev/${disk.device}`]);
    execFileSync('mount', ['-o', 'noatime', `/dev/${disk.device}`, disk.folder]);
    return disk;
  }

  remove(): void {
    execFileSync('umount', [this.folder]);
    rmdirSync(this.folder);
    writeFileSync(join(control, 'hot_remove'), this.#number);
  }
}
