// Sets the theme before the first paint; afterwards src/lib/view.svelte.ts keeps it.
(() => {
  let theme = new URLSearchParams(location.search).get('theme');
  try {
    theme ??= localStorage.getItem('fleetreel.theme');
  } catch {
    // Storage may be forbidden: then the system's theme is shown.
  }
  if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
})();
