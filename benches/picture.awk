# picture.awk - the CPU ratios of compare.sh's table as an SVG
#
#   usage: awk -f benches/picture.awk TABLE >PICTURE.svg
#
# A bar a row, as long as diskimage's CPU time by qemu-img's; the line at 1 is qemu-img itself.

BEGIN { FS = " *[|] *" }

NR > 2 && $6 != "" { n++; label[n] = $2; ratio[n] = $6 + 0 }

function escaped(text) {
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  gsub(/`/, "", text)
  return text
}

END {
  left = 360; scale = 300; row = 24; top = 46; width = left + scale * 1.25; height = top + n * row + 16
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" ", width, height
  printf "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\">\n", width, height
  printf "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height
  printf "<text x=\"%d\" y=\"18\" font-weight=\"bold\" fill=\"#1b1f24\">", 12
  print "CPU time of diskimage, qemu-img = 1 (shorter is better)</text>"
  for (i = 1; i <= n; i++) {
    y = top + (i - 1) * row
    bar = ratio[i] < 1.15 ? ratio[i] : 1.15
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#1b1f24\">%s</text>\n",
      left - 8, y + 15, escaped(label[i])
    printf "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" rx=\"2\" fill=\"%s\"/>\n",
      left, y + 2, bar * scale, ratio[i] <= 1 ? "#2a78b5" : "#b5542a"
    # inside of a bar that ends right before the line
    near = ratio[i] > 0.85 && ratio[i] <= 1
    printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\" fill=\"%s\">%.2f</text>\n",
      left + bar * scale + (near ? -6 : 6), y + 15, near ? "end" : "start",
      near ? "#ffffff" : "#1b1f24", ratio[i]
  }
  printf "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"#1b1f24\" stroke-dasharray=\"4 3\"/>\n",
    left + scale, top - 8, left + scale, height - 8
  printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"#1b1f24\">qemu-img</text>\n",
    left + scale, top - 12
  print "</svg>"
}
