// A disk of its own: an ext4 file system in a file. It can be full, and it can lose its power.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, renameSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class Disk implements Disposable {
  /** Where it is mounted. */
  readonly folder: string;
  readonly #image: string;
  readonly #ballast: string;

  private constructor(folder: string, image: string) {
    this.folder = folder;
    this.#image = image;
    this.#ballast = join(folder, 'ballast');
  }

  /** @param bytes its size; only what is written takes room on this machine's disk */
  static make(bytes: number): Disk {
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-disk-'));
    const image = `${folder}.img`;
    writeFileSync(image, '');
    truncateSync(image, bytes);
    // Everything is written now: left to itself, ext4 goes on writing its tables for minutes. Nothing is reserved for root.
    run('mkfs.ext4', '-q', '-m', '0', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image);
    const disk = new Disk(folder, image);
    disk.#mount();
    return disk;
  }

  #mount(): void {
    run('mount', '-o', 'loop,noatime', this.#image, this.folder);
  }

  /** Takes all room that is left. */
  fill(): void {
    const { bavail, bsize } = statfsSync(this.folder);
    // What the file system needs for the file itself is unknown beforehand: what can be had is taken in smaller and smaller pieces.
    let taken = 0;
    for (let piece = bavail * bsize; piece >= bsize; piece = Math.floor(piece / 2))
      try {
        execFileSync('fallocate', ['-o', String(taken), '-l', String(piece), this.#ballast], { stdio: 'pipe' });
        taken += piece;
      } catch (error) {
        if (!String((error as { stderr?: unknown }).stderr).includes('No space left')) throw error;
      }
  }

  /** Gives the room back. */
  free(): void {
    rmSync(this.#ballast, { force: true });
  }

  /** Makes sure that everything written until now survives a power loss. */
  sync(): void {
    run('sync', '-f', this.folder);
  }

  /**
   * Takes the power away: what was not synced, and what the kernel has not written by itself, never reaches the disk. The
   * programs that have files here fail from now on, and have to be ended before the power comes back.
   */
  losePower(): void {
    // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
    const shutDown =
      'open my $folder, "<", $ARGV[0] or die $!; my $flag = pack("L", 2); ioctl($folder, 0x8004587d, $flag) or die $!;';
    run('perl', '-e', shutDown, this.folder);
  }

  /** The file system as the disk has it: its journal is replayed. */
  restorePower(): void {
    run('umount', this.folder);
    // A copy: while another mount namespace still has the old one mounted, the same image would be mounted as it is there.
    const copy = `${this.#image}.copy`;
    run('cp', '--sparse=always', this.#image, copy);
    renameSync(copy, this.#image);
    this.#mount();
  }

  [Symbol.dispose](): void {
    if (!existsSync(this.folder)) return;
    run('umount', this.folder);
    rmSync(this.folder, { recursive: true });
    rmSync(this.#image);
  }
}

const run = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: 'utf8' });
