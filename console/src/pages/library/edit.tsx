/** What the owner of a file may change: how it is called, who sees it, whether it is in the trash. */
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";

import { editAsset, purgeAsset, restoreAsset, trashAsset, type AssetEdit, type AssetOut } from "../../api/library";
import { changeCard, refreshAssets } from "../../api/lists";
import { Field, Select } from "../../components/field";
import { useTellError, useToast } from "../../components/toasts";
import { useTexts } from "../../i18n";
import css from "./detail.module.css";

const tagsIn = (text: string) => [
  ...new Set(
    text
      .split(/[,\uff0c\u3001]/)
      .map((tag) => tag.trim())
      .filter(Boolean),
  ),
];

export function Edit({ asset, onClose }: { asset: AssetOut; onClose: () => void }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const tell = useToast();
  const tellError = useTellError();
  const [name, setName] = useState(asset.display_name);
  const [description, setDescription] = useState(asset.description);
  const [tags, setTags] = useState(asset.tags.join(", "));
  const edit = useMutation({
    mutationFn: (values: AssetEdit) => editAsset(asset.id, values),
    onError: tellError,
    onSuccess: (changed, values) => {
      client.setQueryData(["assets", "one", asset.id], changed);
      changeCard(client, asset.id, (card) => ({
        ...card,
        name: changed.display_name,
        visibility: changed.visibility,
        warning: changed.warnings.length > 0,
      }));
      tell(
        values.visibility
          ? values.visibility === "public"
            ? t.detail.madePublic
            : t.detail.madePrivate
          : t.detail.saved,
      );
      void refreshAssets(client);
    },
  });
  const restore = useMutation({
    mutationFn: () => restoreAsset(asset.id),
    onError: tellError,
    onSuccess: () => {
      changeCard(client, asset.id, () => null);
      tell(t.detail.restored(asset.display_name));
      void refreshAssets(client);
      onClose();
    },
  });
  const [sure, setSure] = useState(false);
  const purge = useMutation({
    mutationFn: () => purgeAsset(asset.id),
    onError: tellError,
    onSuccess: () => {
      changeCard(client, asset.id, () => null);
      tell(t.detail.purged(asset.display_name));
      void refreshAssets(client);
      onClose();
    },
  });
  const trash = useMutation({
    mutationFn: () => trashAsset(asset.id),
    onError: tellError,
    onSuccess: () => {
      changeCard(client, asset.id, () => null);
      tell(t.detail.movedToTrash(asset.display_name), false, {
        label: t.detail.untrash,
        // This dialog is gone by then, and its mutations with it.
        run: () => void restoreAsset(asset.id).then(() => refreshAssets(client), tellError),
      });
      void refreshAssets(client);
      onClose();
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    edit.mutate({ display_name: name.trim(), description, tags: tagsIn(tags) });
  };
  if (asset.deleted_at)
    return (
      <div className={`row ${css.edit}`}>
        <button type="button" className="primary" disabled={restore.isPending} onClick={() => restore.mutate()}>
          {t.detail.restore}
        </button>
        <span className="grow" />
        <button
          type="button"
          className="danger"
          disabled={purge.isPending}
          onClick={() => (sure ? purge.mutate() : setSure(true))}
        >
          {sure ? t.detail.purgeSure : t.detail.purge}
        </button>
      </div>
    );
  return (
    <form className={css.edit} onSubmit={submit}>
      <Field label={t.detail.rename}>
        {(id) => (
          <input id={id} value={name} maxLength={200} required onChange={(event) => setName(event.target.value)} />
        )}
      </Field>
      <Field label={t.detail.description}>
        {(id) => (
          <textarea id={id} value={description} rows={2} onChange={(event) => setDescription(event.target.value)} />
        )}
      </Field>
      <Field label={t.detail.tags}>
        {(id) => <input id={id} value={tags} onChange={(event) => setTags(event.target.value)} />}
      </Field>
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
        <button
          type="button"
          className="quiet"
          onClick={() => {
            const link = new URL(asset.public_url, location.href).href;
            // Browsers have no clipboard for pages without HTTPS.
            void (navigator.clipboard?.writeText(link) ?? Promise.reject(new Error(link))).then(
              () => tell(t.copied),
              () => tell(link),
            );
          }}
        >
          {t.detail.copyLink}
        </button>
        <span className="grow" />
        <button type="button" className="danger" disabled={trash.isPending} onClick={() => trash.mutate()}>
          {t.detail.trash}
        </button>
      </div>
    </form>
  );
}
