/**
 * A picture for each avatar that was uploaded here and brought none: drawn in the browser once the service has looked into
 * the file, and stored beside it. Where the library is shown, one after the other, when the browser has nothing to do.
 */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef } from "react";

import { getAsset, storeThumbnail } from "../api/library";
import { refreshAssets } from "../api/lists";
import { useUploadItems } from "./context";

/** A job looks into the file first: it may hold a picture of its own. */
const LOOKS = 15;
const BETWEEN = 1500;

const pause = (wait: number) => new Promise((resolve) => setTimeout(resolve, wait));

export function Thumbnails() {
  const client = useQueryClient();
  const items = useUploadItems();
  const seen = useRef(new Set<string>());
  const queue = useRef<Promise<unknown>>(Promise.resolve());
  useEffect(() => {
    for (const { state, key, asset } of items) {
      if (state !== "done" || !asset || !key.toLowerCase().endsWith(".vrm") || seen.current.has(asset)) continue;
      seen.current.add(asset);
      queue.current = queue.current
        .then(() => make(asset))
        .then((made) => (made ? refreshAssets(client) : undefined))
        // It is made when the avatar is looked at, then.
        .catch(() => undefined);
    }
  }, [items, client]);
  return null;
}

async function make(id: string): Promise<boolean> {
  for (let looks = 0; looks < LOOKS; looks += 1) {
    await pause(BETWEEN);
    const asset = await getAsset(id);
    if (asset.status !== "ready" || asset.deleted_at || asset.thumbnail || asset.inspect_error) return false;
    if (!Object.keys(asset.facts).length) continue;
    const { drawThumbnail } = await import("../three/thumbnail");
    const picture = await drawThumbnail(asset.url);
    // Somebody may be looking at it at the same time, and it has one by now.
    if (!picture || (await getAsset(id)).thumbnail) return false;
    await storeThumbnail(asset.s3_key, picture);
    return true;
  }
  return false;
}
