// When the application ends: the end of a Node process, and a page that is left.

/** What is used of a browser or of Node, where it is there. */
type Surroundings = {
  document?: { visibilityState: string; addEventListener: Listen; removeEventListener: Listen };
  addEventListener?: Listen;
  removeEventListener?: Listen;
  process?: { on?: Listen; off?: Listen; versions?: { node?: string } };
};
type Listen = (name: string, listener: () => void) => void;

/** Calls `leave` when the page may be gone afterwards, `exit` when Node has nothing more to do. Returns what ends it. */
export function watchExit(leave: () => void, exit: () => void): () => void {
  const { document, process, addEventListener, removeEventListener } = globalThis as Surroundings;
  if (process?.versions?.node !== undefined && process.on !== undefined) {
    process.on('beforeExit', exit);
    return () => process.off?.('beforeExit', exit);
  }
  if (document === undefined) return () => {};
  const hidden = () => {
    if (document.visibilityState === 'hidden') leave();
  };
  // A phone may end a page that is hidden without another word; a computer says pagehide.
  document.addEventListener('visibilitychange', hidden);
  addEventListener?.('pagehide', leave);
  return () => {
    document.removeEventListener('visibilitychange', hidden);
    removeEventListener?.('pagehide', leave);
  };
}
