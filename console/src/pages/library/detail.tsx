/** One file: what it looks and sounds like, what is inside, whose it is, what may be done with it. */
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useState, type FormEvent } from "react";

import { editAsset, getAsset, restoreAsset, trashAsset, type AssetEdit, type AssetOut } from "../../api/library";
import { useSession } from "../../api/session";
import { Dialog } from "../../components/dialog";
import { Field, Select } from "../../components/field";
import { useTellError, useToast } from "../../components/toasts";
import { bytes, clock, useTexts, when } from "../../i18n";
import { useUploads } from "../../uploads/context";
import { Sound } from "./sound";

const Model = lazy(() => import("./model"));

export default function Detail({ id, onClose }: { id: string; onClose: () => void }) {
  const { t } = useTexts();
  const asset = useQuery({
    queryKey: ["assets", "one", id],
    queryFn: ({ signal }) => getAsset(id, signal),
    // What is inside is read by a job: it comes a moment later.
    refetchInterval: (query) => {
      const found = query.state.data;
      return found?.status === "ready" && !Object.keys(found.facts).length && !found.inspectError ? 2000 : false;
    },
  });
  return (
    <Dialog title={asset.data?.displayName ?? t.loading} onClose={onClose} wide>
      {asset.data ? <Loaded key={asset.data.id} asset={asset.data} onClose={onClose} /> : null}
      {asset.isError ? <p role="alert">{asset.error.message}</p> : null}
    </Dialog>
  );
}

function Loaded({ asset, onClose }: { asset: AssetOut; onClose: () => void }) {
  const { t, language } = useTexts();
  const me = useSession().data;
  const mine = asset.ownerUserId === me?.userId || me?.operator;
  const shown = asset.status === "ready" && !asset.deletedAt;
  return (
    <div className="detail">
      <div className="detail-picture">
        {shown && ["vrm", "scene", "hdr"].includes(asset.type) ? (
          <Suspense fallback={<div className="stage-box">{t.loading}</div>}>
            <Model asset={asset} mayKeep={Boolean(mine)} />
          </Suspense>
        ) : null}
        {shown && asset.type === "bgm" ? <Sound asset={asset} /> : null}
        {shown && asset.type === "animation" && asset.thumbnail ? <img src={asset.thumbnail} alt="" /> : null}
        {asset.status === "failed" ? <Failed asset={asset} /> : null}
        {asset.status === "missing" ? (
          <p className="notice bad">
            {t.detail.missing} ({when(asset.missingSince, language)})
          </p>
        ) : null}
        {asset.deletedAt ? <p className="notice">{t.detail.deleted(when(asset.deletedAt, language))}</p> : null}
      </div>
      <div className="detail-side">
        {asset.warnings.includes("licence_forbids_redistribution") ? <p className="notice bad">{t.library.warning}</p> : null}
        {mine ? <Edit asset={asset} onClose={onClose} /> : null}
        <Facts asset={asset} />
      </div>
    </div>
  );
}

function Failed({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const { add } = useUploads();
  return (
    <div className="notice bad">
      <p>
        <strong>{t.detail.failed}</strong>
      </p>
      <p>
        {asset.errorDetail ?? asset.errorCode} <code>{asset.errorCode}</code>
      </p>
      <label className="button">
        {t.detail.retry}
        <input type="file" className="visually-hidden" onChange={(event) => event.target.files && add(event.target.files)} />
      </label>
    </div>
  );
}

function Edit({ asset, onClose }: { asset: AssetOut; onClose: () => void }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const tell = useToast();
  const tellError = useTellError();
  const [name, setName] = useState(asset.displayName);
  const [tags, setTags] = useState(asset.tags.join(", "));
  const settled = () => client.invalidateQueries({ queryKey: ["assets"] });
  const edit = useMutation({ mutationFn: (values: AssetEdit) => editAsset(asset.id, values), onError: tellError, onSettled: settled });
  const move = useMutation({
    mutationFn: async () => void (asset.deletedAt ? await restoreAsset(asset.id) : await trashAsset(asset.id)),
    onError: tellError,
    onSuccess: onClose,
    onSettled: settled,
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    edit.mutate({
      displayName: name,
      tags: tags
        .split(",")
        .map((tag) => tag.trim())
        .filter(Boolean),
    });
  };
  return (
    <form className="edit" onSubmit={submit}>
      <Field label={t.detail.rename}>
        {(id) => <input id={id} value={name} maxLength={200} required onChange={(event) => setName(event.target.value)} />}
      </Field>
      <Field label={t.detail.tags}>{(id) => <input id={id} value={tags} onChange={(event) => setTags(event.target.value)} />}</Field>
      <Select
        label={t.detail.visibility}
        value={asset.visibility}
        options={[
          ["private", t.library.private],
          ["public", t.library.public],
        ]}
        onChange={(value) => edit.mutate({ visibility: value as "public" | "private" })}
      />
      <div className="row">
        <button type="submit" className="primary" disabled={edit.isPending}>
          {t.save}
        </button>
        <button type="button" className={asset.deletedAt ? "" : "danger"} disabled={move.isPending} onClick={() => move.mutate()}>
          {asset.deletedAt ? t.detail.restore : t.detail.trash}
        </button>
        <button
          type="button"
          className="quiet"
          onClick={() => {
            void navigator.clipboard.writeText(new URL(asset.url, location.href).href).then(() => tell(t.copied));
          }}
        >
          {t.detail.copyLink}
        </button>
      </div>
    </form>
  );
}

interface Licence {
  [part: string]: unknown;
}

function Facts({ asset }: { asset: AssetOut }) {
  const { t, language } = useTexts();
  const facts = asset.facts as Record<string, unknown> & { licence?: Licence };
  const loudness = facts.loudness_lufs ?? facts.loudness;
  const plain: [string, string][] = [
    [t.detail.size, bytes(asset.sizeBytes)],
    [t.detail.added, when(asset.createdAt, language)],
  ];
  if (typeof facts.format === "string") plain.push([t.detail.format, facts.format.replaceAll("_", " ")]);
  if (asset.durationSeconds) plain.push([t.detail.duration, clock(asset.durationSeconds)]);
  if (typeof loudness === "number") plain.push([t.detail.loudness, `${loudness.toFixed(1)} LUFS`]);
  for (const [name, value] of Object.entries(facts)) {
    if (["number", "string"].includes(typeof value) && !["format", "duration", "loudness", "loudness_lufs", "duration_seconds"].includes(name))
      plain.push([name.replaceAll("_", " "), typeof value === "number" ? value.toLocaleString() : String(value)]);
  }
  return (
    <>
      {facts.licence ? <LicenceCard licence={facts.licence} /> : null}
      <section>
        <h3>{t.detail.facts}</h3>
        <dl className="facts">
          {plain.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
        {asset.inspectError ? (
          <p className="dim">
            {t.detail.inspectError}: <code>{asset.inspectError}</code>
          </p>
        ) : null}
      </section>
    </>
  );
}

function LicenceCard({ licence }: { licence: Licence }) {
  const { t } = useTexts();
  const shown = Object.entries(licence).filter(([, value]) => typeof value === "string" || typeof value === "boolean");
  return (
    <section>
      <h3>{t.detail.licence}</h3>
      <ul className="badges">
        {shown.map(([part, value]) => {
          const forbidden = value === false || /^(disallow|prohibited|none|no|not|only_author)/.test(String(value));
          const link = typeof value === "string" && /^https?:\/\//.test(value);
          return (
            <li key={part} className={forbidden ? "licence no" : "licence yes"}>
              <span>{part.replaceAll("_", " ")}</span>{" "}
              <b>
                {link ? (
                  <a href={value} rel="noreferrer noopener" target="_blank">
                    {new URL(value).hostname}
                  </a>
                ) : value === true ? (
                  t.detail.allowed
                ) : value === false ? (
                  t.detail.forbidden
                ) : (
                  String(value).replaceAll("_", " ")
                )}
              </b>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
