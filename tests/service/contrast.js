// Every visible piece of text whose colour stands out from what lies behind it by less than 4.5 to 1 (WCAG 2.2, AA).
const parse = (color) => {
  const numbers = color.match(/-?[\d.]+/g).map(Number);
  const unit = color.startsWith("color(") ? 255 : 1;
  return { rgb: numbers.slice(0, 3).map((n) => n * unit), alpha: numbers[3] ?? 1 };
};
const over = (top, below) => below.map((n, i) => top.rgb[i] * top.alpha + n * (1 - top.alpha));
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((n) => n / 255).map((n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
  if (element.closest(":disabled, noscript, symbol")) continue;
  const back = behind(element);
  const [low, high] = [luminance(over(parse(getComputedStyle(element).color), back)), luminance(back)].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 30)}`);
}
return [...new Set(found)];
