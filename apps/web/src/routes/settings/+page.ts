import { redirect } from '@sveltejs/kit';
import { settingLink } from '#lib/links.ts';

export function load({ url }: { url: URL }): never {
  redirect(307, settingLink('account', url.search));
}
