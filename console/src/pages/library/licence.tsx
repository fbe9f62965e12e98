/** What an avatar's licence allows: a badge for each part, and where the whole of it can be read. */
import type { AssetOut } from "../../api/library";
import { useTexts } from "../../i18n";
import { term, termClass } from "./words";
import css from "./detail.module.css";

interface Licence {
  spec?: string | null;
  licence_url?: string | null;
  other_url?: string | null;
  third_party?: string | null;
  [part: string]: unknown;
}

export function LicenceCard({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const licence = (asset.facts as { licence?: Licence }).licence;
  if (!licence) return null;
  const parts = Object.entries(t.assets.licence).filter(([part]) => licence[part] !== undefined);
  return (
    <section>
      <h3>{t.detail.licence}</h3>
      {licence.spec ? null : <p className="notice warn">{t.assets.noLicence}</p>}
      <dl className={css.terms}>
        {parts.map(([part, { name }]) => (
          <div
            key={part}
            className={css.term}
            data-tone={termClass(part, licence[part])}
            data-part={part}
            data-value={String(licence[part])}
          >
            <dt>{name}</dt>
            <dd>{term(t, part, licence[part])}</dd>
          </div>
        ))}
      </dl>
      <Links licence={licence} />
      {licence.third_party ? <p className={`${css.prose} dim`}>{licence.third_party}</p> : null}
    </section>
  );
}

function Links({ licence }: { licence: Licence }) {
  const { t } = useTexts();
  const links = [
    [licence.licence_url, t.assets.licenceText],
    [licence.other_url, t.assets.licenceMore],
  ].filter((one): one is [string, string] => /^https?:\/\//.test(one[0] ?? ""));
  if (!links.length) return null;
  return (
    <p className="row">
      {links.map(([url, text]) => (
        <a key={url} href={url} rel="noreferrer noopener" target="_blank">
          {text}
        </a>
      ))}
    </p>
  );
}
