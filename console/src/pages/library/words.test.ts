import { describe, expect, test } from "vitest";

import { en } from "../../i18n/en";
import { zh } from "../../i18n/zh";
import { factsOf, formatName, reason, term, termClass } from "./words";

test.each([
  ["commercial", "forbidden", "bad"],
  ["commercial", "personal_profit", "warn"],
  ["commercial", "corporation", "good"],
  ["redistribution", "allowed", "good"],
  ["credit", "required", "warn"],
  ["credit", "unnecessary", "good"],
  ["avatar", "author", "bad"],
  ["violent", false, "bad"],
  ["violent", true, "good"],
  // Whoever may not use it for hatred has lost nothing.
  ["antisocial", false, "plain"],
  ["antisocial", true, "good"],
])("%s: %s is %s news", (part, value, tone) => {
  expect(termClass(part, value)).toBe(tone);
});

test("a term has the word of its part, and what has none is shown as it is", () => {
  expect(term(en, "violent", true)).toBe("Allowed");
  expect(term(en, "commercial", "corporation")).toBe("Everyone, including companies");
  expect(term(zh, "credit", "required")).toBe("必须署名");
  expect(term(en, "commercial", "only_on_sundays")).toBe("only on sundays");
  expect(term(en, "no_such_part", "some_value")).toBe("some value");
});

test("a format has the name that people know", () => {
  expect(formatName(en, "vrm1")).toBe("VRM 1.0");
  expect(formatName(en, "xyz")).toBe("XYZ");
});

test("a reason comes in our words, else in the service's, else by its code", () => {
  expect(reason(en, "glb_invalid", "broken")).toBe(en.assets.reasons.glb_invalid);
  expect(reason(en, "new_code", "The service's words")).toBe("The service's words");
  expect(reason(en, "new_code")).toBe("new_code");
  expect(reason(en, null)).toBe(en.failed);
});

describe("facts", () => {
  const model = {
    title: "Aoi",
    authors: ["A", "B"],
    triangles: 12_345,
    largest_image: [2048, 1024],
    bones: ["hips", "head"],
  };
  const sound = { channels: 2, sample_rate: 44_100, bitrate: 128, loudness_lufs: -14.25, peak_dbfs: -1 };

  test("are told with names, in the order of what matters", () => {
    expect(factsOf(en, { sound, model }, "en")).toEqual([
      ["Title", "Aoi"],
      ["Authors", "A, B"],
      ["Triangles", "12,345"],
      ["Largest texture", "2,048 × 1,024"],
      ["Bones", "2"],
      ["Channels", "Stereo"],
      ["Sample rate", "44.1 kHz"],
      ["Bitrate", "128 kbit/s"],
      ["Loudness", "-14.3 LUFS"],
      ["Peak", "-1 dBFS"],
    ]);
  });

  test("are told in the reader's language", () => {
    expect(factsOf(zh, { sound: { channels: 1 }, animation: { look_at: true } }, "zh")).toEqual([
      ["含视线动画", "是"],
      ["声道", "单声道"],
    ]);
  });

  test.each([null, undefined, "", 0, false, [], { a: 1 }])("%j is nothing to tell", (title) => {
    expect(factsOf(en, { model: { title } }, "en")).toEqual([]);
  });

  test("the time of a frame is told as frames in a second", () => {
    expect(factsOf(en, { animation: { frame_time: 1 / 30 } }, "en")).toEqual([["Frames per second", "30"]]);
  });

  test("a picture has a resolution once both of its sides are known", () => {
    expect(factsOf(en, { picture: { width: 4096, height: 2048 } }, "en")).toEqual([["Resolution", "4,096 × 2,048"]]);
    expect(factsOf(en, { picture: { width: 4096 } }, "en")).toEqual([]);
  });

  test("sections and facts that are not known are left out", () => {
    expect(factsOf(en, { other: { a: 1 }, model: { secret: "x" } }, "en")).toEqual([]);
  });
});
