/** One file: what it looks and sounds like, whose it is, what is inside, what may be done with it. */
import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense } from "react";

import { getAsset, type AssetOut } from "../../api/library";
import { useSession } from "../../api/session";
import { Dialog } from "../../components/dialog";
import { Icon } from "../../components/icon";
import { useTexts, when } from "../../i18n";
import { useUploads } from "../../uploads/context";
import { Edit } from "./edit";
import { Facts } from "./facts";
import { LicenceCard } from "./licence";
import { Sound } from "./sound";
import { TakenDown } from "./taken-down";
import { reason } from "./words";
import css from "./detail.module.css";
import { problemText } from "../../i18n/problems";

const Model = lazy(() => import("./model"));

export default function Detail({ id, onClose }: { id: string; onClose: () => void }) {
  const { t } = useTexts();
  const asset = useQuery({
    queryKey: ["assets", "one", id],
    queryFn: ({ signal }) => getAsset(id, signal),
    // What is inside is read by a job: it comes a moment later.
    refetchInterval: (query) => {
      const found = query.state.data;
      return found?.status === "ready" && !Object.keys(found.facts).length && !found.inspect_error ? 2000 : false;
    },
  });
  return (
    <Dialog
      title={asset.data?.display_name ?? t.loading}
      onClose={onClose}
      wide
      returnTo={() => document.querySelector<HTMLElement>(`[data-place][data-id="${CSS.escape(id)}"]`)}
    >
      {asset.data ? <Loaded asset={asset.data} onClose={onClose} /> : null}
      {asset.isError ? (
        <div className="notice bad" role="alert">
          <p>{problemText(asset.error, t)}</p>
          <button type="button" onClick={() => void asset.refetch()}>
            {t.uploads.retry}
          </button>
        </div>
      ) : null}
    </Dialog>
  );
}

function Loaded({ asset, onClose }: { asset: AssetOut; onClose: () => void }) {
  const { t } = useTexts();
  const me = useSession().data;
  const mine = Boolean(me?.user_id && (asset.owner_user_id === me.user_id || me.operator));
  return (
    <div className={css.detail}>
      <div className={css.picture}>
        <Picture asset={asset} mine={mine} />
      </div>
      <div className={css.side}>
        {asset.warnings.includes("licence_forbids_redistribution") ? (
          <p className="notice warn">
            <Icon of="warning" /> {t.library.warning}
          </p>
        ) : null}
        <TakenDown asset={asset} />
        {mine ? <Edit key={asset.id} asset={asset} onClose={onClose} /> : <Described asset={asset} />}
        {asset.type === "vrm" && asset.status === "ready" ? <LicenceCard asset={asset} /> : null}
        <Facts asset={asset} />
      </div>
    </div>
  );
}

function Picture({ asset, mine }: { asset: AssetOut; mine: boolean }) {
  const { t, language } = useTexts();
  const operator = useSession().data?.operator;
  if (asset.deleted_at) return <Still asset={asset} notice={t.detail.deleted(when(asset.deleted_at, language))} />;
  if (asset.status === "missing")
    return <Still asset={asset} bad notice={`${t.detail.missing} (${when(asset.missing_since, language)})`} />;
  if (asset.taken_down_reason && !operator) return <Still asset={asset} bad notice={t.detail.noPicture} />;
  if (asset.status === "uploading") return <Still asset={asset} notice={t.states.uploading} />;
  if (asset.status === "failed") return <Failed asset={asset} />;
  if (asset.type === "bgm") return <Sound asset={asset} />;
  return (
    <Suspense fallback={<div className="stage-box">{t.loading}</div>}>
      <Model asset={asset} mayKeep={mine} />
    </Suspense>
  );
}

/** A file that cannot be read now. */
function Still({ asset, notice, bad = false }: { asset: AssetOut; notice: string; bad?: boolean }) {
  return (
    <>
      <div className={`stage-box ${css.still}`} data-type={asset.type}>
        <Icon of={asset.type} size={72} />
      </div>
      <p className={bad ? "notice bad" : "notice"}>{notice}</p>
    </>
  );
}

function Failed({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const { add } = useUploads();
  return (
    <>
      <div className={`stage-box ${css.still}`} data-type={asset.type}>
        <Icon of={asset.type} size={72} />
      </div>
      <div className="notice bad">
        <p>
          <strong>{t.detail.failed}</strong>
        </p>
        <p>{reason(t, asset.error_code, asset.error_detail)}</p>
        <label className="button">
          <Icon of="upload" /> {t.detail.retry}
          <input
            type="file"
            className="visually-hidden"
            onChange={(event) => {
              if (event.target.files) add(event.target.files, asset.s3_key);
              event.target.value = "";
            }}
          />
        </label>
      </div>
    </>
  );
}

function Described({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  return (
    <section>
      <p className="dim">{t.detail.notYours}</p>
      {asset.description ? <p className={css.prose}>{asset.description}</p> : null}
      {asset.tags.length ? (
        <ul className="badges">
          {asset.tags.map((tag) => (
            <li key={tag} className="badge">
              {tag}
            </li>
          ))}
        </ul>
      ) : null}
    </section>
  );
}
