/** The 3D preview. A VRM that brought no thumbnail gets the picture that is made here. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";

import { listAssets, storeThumbnail, type AssetOut } from "../../api/library";
import { Select } from "../../components/field";
import { useTexts } from "../../i18n";
import { Scene } from "../../three/scene";

const THUMBNAIL = 512;
/** Textures are sent to the card, springs settle. */
const FRAMES_BEFORE = 12;

export default function Model({ asset, mayKeep }: { asset: AssetOut; mayKeep: boolean }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const canvas = useRef<HTMLCanvasElement>(null);
  const scene = useRef<Scene>(null);
  const [state, setState] = useState<"loading" | "shown" | "failed">("loading");
  const [expressions, setExpressions] = useState<string[]>([]);
  const [active, setActive] = useState("");
  const [animation, setAnimation] = useState("");
  const [making, setMaking] = useState(false);
  const [isVrm, setIsVrm] = useState(false);
  const lacks = mayKeep && asset.type === "vrm" && !asset.thumbnail;

  useEffect(() => {
    if (!canvas.current) return;
    let over = false;
    let made: Scene;
    try {
      made = new Scene(canvas.current);
    } catch {
      setState("failed");
      return;
    }
    scene.current = made;
    const shown = asset.type === "hdr" ? made.showSky(asset.url) : made.load(asset.url);
    void Promise.resolve(shown).then(
      async (loaded) => {
        if (over) return;
        setState("shown");
        if (!loaded) return;
        setExpressions(loaded.expressions);
        setIsVrm(loaded.isVrm);
        if (!lacks) return;
        setMaking(true);
        const first = made.frames;
        while (!over && made.frames < first + FRAMES_BEFORE) await new Promise((resolve) => setTimeout(resolve, 50));
        const picture = over ? null : await made.picture(THUMBNAIL, THUMBNAIL);
        try {
          if (picture) await storeThumbnail(asset.s3Key, picture);
          await client.invalidateQueries({ queryKey: ["assets"] });
        } finally {
          if (!over) setMaking(false);
        }
      },
      () => {
        if (!over) setState("failed");
      },
    );
    return () => {
      over = true;
      scene.current = null;
      made.dispose();
    };
    // The picture is made once for a file, whatever else of it changes.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [asset.url, asset.type]);

  const animations = useQuery({
    queryKey: ["assets", "animations"],
    queryFn: ({ signal }) => listAssets({ type: "animation" }, "name", null, signal),
    enabled: isVrm,
  });

  return (
    <div className="model">
      <div className="stage-box">
        {/* A canvas keeps its context for life: a new file gets a new one. */}
        <canvas key={asset.url} ref={canvas} tabIndex={0} role="img" aria-label={`${t.detail.preview}: ${asset.displayName}`} data-state={state} />
        {state === "loading" ? <span className="over">{t.loading}</span> : null}
        {state === "failed" ? <span className="over bad">{t.detail.previewFailed}</span> : null}
        {making ? <span className="over low">{t.detail.makeThumbnail}</span> : null}
      </div>
      {isVrm ? (
        <Select
          label={t.detail.animation}
          value={animation}
          options={[["", t.detail.noAnimation], ...(animations.data?.items ?? []).map((one) => [one.url, one.name] as const)]}
          onChange={(url) => {
            setAnimation(url);
            scene.current?.animate(url || null).catch(() => setAnimation(""));
          }}
        />
      ) : null}
      {expressions.length ? (
        <fieldset className="expressions">
          <legend>{t.detail.expressions}</legend>
          {expressions.map((name) => (
            <button
              key={name}
              type="button"
              className="chip"
              aria-pressed={active === name}
              onClick={() => {
                if (active) scene.current?.setExpression(active, 0);
                if (active !== name) scene.current?.setExpression(name, 1);
                setActive(active === name ? "" : name);
              }}
            >
              {name}
            </button>
          ))}
        </fieldset>
      ) : null}
    </div>
  );
}
